#include <jansson.h>
#include <openssl/crypto.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "support/config.h"
#include "support/version.h"

/* What is linked at run time, which is not always what it was built against. */
static struct library {
    const char *name;
    const char *version;
} libraries[3];

#define LIBRARY_COUNT (sizeof libraries / sizeof *libraries)

static void ask_libraries(void)
{
    libraries[0] = (struct library){"openssl", OpenSSL_version(OPENSSL_VERSION_STRING)};
    libraries[1] = (struct library){"jansson", jansson_version_str()};
    libraries[2] = (struct library){"libconfig", config_library_version()};
}

static int print_json(void)
{
    json_t *versions = json_object();
    int failed = 0;

    for (size_t i = 0; i < LIBRARY_COUNT; i++)
        failed |=
            json_object_set_new(versions, libraries[i].name, json_string(libraries[i].version));
    if (failed != 0) {
        json_decref(versions);
        return cli_print_json(NULL);
    }
    return cli_print_json(json_pack("{s:s,s:s,s:o}", "name", SIWA_NAME, "version", SIWA_VERSION,
                                    "libraries", versions));
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
    ask_libraries();
    if (json)
        return print_json() == 0 ? CLI_OK : CLI_REFUSED;
    (void)puts(SIWA_NAME " " SIWA_VERSION);
    for (size_t i = 0; i < LIBRARY_COUNT; i++)
        (void)printf("%s %s\n", libraries[i].name, libraries[i].version);
    return CLI_OK;
}
