#include <jansson.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "dispatcher/outbox.h"
#include "keys/fetch.h"
#include "listener/http.h"
#include "support/config.h"
#include "support/version.h"

static struct version_library openssl_library(void)
{
    struct version_library library = {.name = "openssl", .built = OPENSSL_VERSION_STR};

    (void)snprintf(library.running, sizeof library.running, "%s",
                   OpenSSL_version(OPENSSL_VERSION_STRING));
    return library;
}

static struct version_library jansson_library(void)
{
    struct version_library library = {.name = "jansson", .built = JANSSON_VERSION};

    (void)snprintf(library.running, sizeof library.running, "%s", jansson_version_str());
    return library;
}

static struct version_library (*const libraries[])(void) = {
    http_library, outbox_library, fetch_library, openssl_library, jansson_library, config_library};

#define LIBRARY_COUNT (sizeof libraries / sizeof *libraries)

static int print_json(void)
{
    json_t *versions = json_object();
    int failed = 0;

    for (size_t i = 0; i < LIBRARY_COUNT; i++) {
        struct version_library library = libraries[i]();
        failed |= json_object_set_new(
            versions, library.name,
            json_pack("{s:s,s:s}", "running", library.running, "built", library.built));
    }
    if (failed != 0) {
        json_decref(versions);
        return cli_print_json(NULL);
    }
    return cli_print_json(json_pack("{s:s,s:s,s:o}", "name", SIWA_NAME, "version", SIWA_VERSION,
                                    "libraries", versions));
}

/* Which one was built against is said only where it is another one than runs. */
static void print_library(const struct version_library *library)
{
    if (strcmp(library->built, library->running) == 0)
        (void)printf("%s %s\n", library->name, library->running);
    else
        (void)printf("%s %s (built against %s)\n", library->name, library->running, library->built);
}

int cli_version(int argc, char **argv)
{
    bool json = false;
    const struct cli_option options[] = {cli_json_option(&json), {.name = NULL}};
    const struct cli_usage usage = {.name = "version",
                                    .operands = "",
                                    .about = "Prints the version of " SIWA_NAME
                                             " and of the libraries that it runs with.",
                                    .options = options};
    int operands, exit_code;

    if (!cli_parse(&usage, argc, argv, &operands, &exit_code))
        return exit_code;
    if (json)
        return print_json() == 0 ? CLI_OK : CLI_REFUSED;
    (void)puts(SIWA_NAME " " SIWA_VERSION);
    for (size_t i = 0; i < LIBRARY_COUNT; i++) {
        struct version_library library = libraries[i]();
        print_library(&library);
    }
    return CLI_OK;
}
