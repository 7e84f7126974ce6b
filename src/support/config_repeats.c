#include "config_repeats.h"

#include <string.h>

struct name {
    const char *text;
    size_t bytes;
    unsigned line;
};

/* A group, list or array that is open; the text itself is the outermost group. */
struct place {
    bool group;
    bool value_next;   /* after = or : */
    char *repeat;      /* where the setting begins that is to be blanked at its end, or NULL */
    size_t first_name; /* of those seen in this group */
};

struct scan {
    char *at;
    unsigned line;
    struct place places[CONFIG_REPEATS_DEPTH_MAX];
    size_t depth; /* of the innermost place */
    struct name names[CONFIG_REPEATS_NAMES_MAX];
    size_t name_count;
    struct name section; /* the setting at the top that was begun last */
    void (*found)(void *context, const struct config_repeat *repeat);
    void *context;
};

static bool begins_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '*';
}

static bool is_in_name(char c)
{
    return begins_name(c) || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static void skip_line(struct scan *scan)
{
    while (*scan->at != '\0' && *scan->at != '\n')
        scan->at++;
}

/* To the end of a comment or a string, from behind its beginning. */
static void skip_past(struct scan *scan, const char *end, bool escapes)
{
    size_t end_bytes = strlen(end);

    while (*scan->at != '\0' && strncmp(scan->at, end, end_bytes) != 0) {
        if (escapes && scan->at[0] == '\\' && scan->at[1] != '\0')
            scan->at++;
        if (*scan->at == '\n')
            scan->line++;
        scan->at++;
    }
    if (*scan->at != '\0')
        scan->at += end_bytes;
}

/* Whatever stands between two tokens. */
static bool skip_space(struct scan *scan)
{
    switch (*scan->at) {
    case '\n':
        scan->line++;
        /* fall through */
    case ' ':
    case '\t':
    case '\r':
    case '\f':
        scan->at++;
        return true;
    case '#':
        skip_line(scan);
        return true;
    case '/':
        if (scan->at[1] == '/') {
            skip_line(scan);
            return true;
        }
        if (scan->at[1] == '*') {
            scan->at += 2;
            skip_past(scan, "*/", false);
            return true;
        }
        return false;
    default:
        return false;
    }
}

/* The setting of a place that is over here is blanked where it was a repeat. */
static void end_setting(struct place *place, const char *end)
{
    for (char *at = place->repeat; at != NULL && at < end; at++) {
        if (*at != '\n')
            *at = ' ';
    }
    place->repeat = NULL;
    place->value_next = false;
}

static const struct name *find_earlier(const struct scan *scan, const struct name *name)
{
    for (size_t i = scan->places[scan->depth].first_name; i < scan->name_count; i++) {
        if (scan->names[i].bytes == name->bytes &&
            memcmp(scan->names[i].text, name->text, name->bytes) == 0)
            return &scan->names[i];
    }
    return NULL;
}

static bool begin_setting(struct scan *scan, char *text, const struct name *name)
{
    struct place *place = &scan->places[scan->depth];
    const struct name *earlier = find_earlier(scan, name);

    end_setting(place, text);
    if (scan->depth == 0)
        scan->section = *name;
    if (earlier != NULL) {
        scan->found(scan->context, &(struct config_repeat){
                                       .section = scan->section.text,
                                       .section_bytes = scan->depth > 0 ? scan->section.bytes : 0,
                                       .name = name->text,
                                       .name_bytes = name->bytes,
                                       .line = name->line,
                                       .first_line = earlier->line});
        place->repeat = text;
        return true;
    }
    if (scan->name_count == CONFIG_REPEATS_NAMES_MAX)
        return false;
    scan->names[scan->name_count++] = *name;
    return true;
}

static void skip_digits(struct scan *scan)
{
    scan->at += strspn(scan->at, "0123456789");
}

/* As far as libconfig takes it for one number: a name may follow without a blank. */
static void skip_number(struct scan *scan)
{
    const char *exponent;

    if (*scan->at == '+' || *scan->at == '-')
        scan->at++;
    if (scan->at[0] == '0' && (scan->at[1] == 'x' || scan->at[1] == 'X')) {
        scan->at += 2;
        scan->at += strspn(scan->at, "0123456789abcdefABCDEF");
    } else {
        skip_digits(scan);
        if (*scan->at == '.') {
            scan->at++;
            skip_digits(scan);
        }
        exponent = scan->at + strspn(scan->at, "eE");
        exponent += strspn(exponent, "+-");
        if ((*scan->at == 'e' || *scan->at == 'E') && *exponent >= '0' && *exponent <= '9') {
            scan->at += exponent - scan->at;
            skip_digits(scan);
        }
    }
    for (int i = 0; i < 2 && *scan->at == 'L'; i++)
        scan->at++;
}

/* A name, a number, true or false, or a character that has no place here. */
static bool take_word(struct scan *scan)
{
    struct place *place = &scan->places[scan->depth];
    char *text = scan->at;
    bool is_name = place->group && !place->value_next && begins_name(*text);

    place->value_next = false;
    if (begins_name(*text)) {
        while (is_in_name(*scan->at))
            scan->at++;
    } else {
        skip_number(scan);
        if (scan->at == text)
            scan->at++;
    }
    if (!is_name)
        return true;
    return begin_setting(
        scan, text,
        &(struct name){.text = text, .bytes = (size_t)(scan->at - text), .line = scan->line});
}

static bool open_place(struct scan *scan)
{
    bool group = *scan->at == '{';

    if (scan->depth + 1 == CONFIG_REPEATS_DEPTH_MAX)
        return false;
    scan->places[scan->depth++].value_next = false;
    scan->places[scan->depth] = (struct place){.group = group, .first_name = scan->name_count};
    scan->at++;
    return true;
}

static bool close_place(struct scan *scan)
{
    if (scan->depth == 0)
        return false;
    end_setting(&scan->places[scan->depth], scan->at);
    scan->name_count = scan->places[scan->depth--].first_name;
    scan->at++;
    return true;
}

/* Whether there is more to look at. */
static bool take_token(struct scan *scan)
{
    switch (*scan->at) {
    case '"':
        scan->at++;
        skip_past(scan, "\"", true);
        scan->places[scan->depth].value_next = false;
        return true;
    case '{':
    case '(':
    case '[':
        return open_place(scan);
    case '}':
    case ')':
    case ']':
        return close_place(scan);
    case '=':
    case ':':
        scan->places[scan->depth].value_next = true;
        scan->at++;
        return true;
    case ';':
    case ',':
        scan->at++;
        end_setting(&scan->places[scan->depth], scan->at);
        return true;
    case '@': /* an include, which is refused */
        skip_line(scan);
        return true;
    default:
        return take_word(scan);
    }
}

bool config_repeats_blank(char *text,
                          void (*found)(void *context, const struct config_repeat *repeat),
                          void *context)
{
    struct scan scan = {.at = text, .line = 1, .found = found, .context = context};
    bool good = true;

    scan.places[0].group = true;
    while (good && *scan.at != '\0') {
        if (!skip_space(&scan))
            good = take_token(&scan);
    }
    /* Also where it stopped in the middle: what was told of is not to be told of again. */
    for (size_t i = scan.depth + 1; i-- > 0;)
        end_setting(&scan.places[i], scan.at);
    return good;
}
