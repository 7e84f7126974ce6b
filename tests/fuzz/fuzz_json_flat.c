/*
 * json_flat: what it reads, jansson reads alike; member by member, byte by byte.
 */
#include <jansson.h>
#include <stdint.h>
#include <string.h>

#include "../../src/verifier/json_flat.h"
#include "fuzz.h"
#include "verifier/json_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    json_object_seed(1);
    return 0;
}

static void compare(const struct json_flat_member *member, const char *name, const json_t *value)
{
    HOLDS(member->name_bytes == strlen(name));
    HOLDS(memcmp(member->name, name, member->name_bytes) == 0);
    switch (member->kind) {
    case JSON_FLAT_STRING:
        HOLDS(json_is_string(value));
        HOLDS(member->text_bytes == json_string_length(value));
        HOLDS(memcmp(member->text, json_string_value(value), member->text_bytes + 1) == 0);
        return;
    case JSON_FLAT_INTEGER:
        HOLDS(json_is_integer(value) && json_integer_value(value) == member->integer);
        return;
    case JSON_FLAT_TRUE:
        HOLDS(json_is_true(value));
        return;
    case JSON_FLAT_FALSE:
        HOLDS(json_is_false(value));
        return;
    case JSON_FLAT_NONE:
        break;
    }
    HOLDS(!"a member of no kind");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* as large as it must be, so that a read behind it is seen */
    char *copy = malloc(size);
    struct json_flat flat;
    json_t *tree = NULL, *value;
    const char *name;
    size_t at = 0;

    if (!copy)
        return 0;
    if (size > 0)
        memcpy(copy, data, size);
    if (json_flat_read(copy, size, &flat)) {
        HOLDS(json_text_parse((const char *)data, size, &tree) == 0);
        HOLDS(json_is_object(tree) && json_object_size(tree) == flat.count);
        json_object_foreach(tree, name, value)
        {
            compare(&flat.members[at], name, value);
            HOLDS(json_flat_find(&flat, name) == &flat.members[at]);
            at++;
        }
        /* no text that is read flat has it; any other name might stand there */
        HOLDS(!json_flat_find(&flat, "\x01"));
        json_decref(tree);
    }
    free(copy);
    return 0;
}
