#include "config_values.h"

#include <arpa/inet.h>
#include <errno.h>
#include <jansson.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define CLIENT_ID_MAX_BYTES 255 /* NOTIFICATION_CLAIM_MAX_BYTES of the verifier */
#define LABEL_MAX_BYTES     64
#define TEAM_BYTES          10
#define NAME_MAX_BYTES      32 /* of a consumer, and of a user (useradd(8)) */
#define HTTP_PATH_MAX_BYTES 255
#define FILE_PATH_MAX_BYTES 1000 /* leaves room below PATH_MAX for what stands beside it */
#define URL_MAX_BYTES       1024
#define ISSUER_MAX_BYTES    255

static bool is_visible(char c)
{
    return c > ' ' && c < 0x7f;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

static bool is_upper(char c)
{
    return c >= 'A' && c <= 'Z';
}

static bool all(const char *text, bool (*allowed)(char c))
{
    for (; *text != '\0'; text++) {
        if (!allowed(*text))
            return false;
    }
    return true;
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* UTF-8 without control characters, those of ISO 6429 (U+0080 to U+009F) among them. */
static bool is_clean_text(const char *text)
{
    json_t *valid = json_string(text); /* NULL for what is not UTF-8 */

    if (valid == NULL)
        return false;
    json_decref(valid);
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; at++) {
        if (*at < ' ' || *at == 0x7f || (*at == 0xc2 && at[1] < 0xa0))
            return false;
    }
    return true;
}

static bool is_file_path(const char *text)
{
    size_t bytes = strlen(text);

    return text[0] == '/' && bytes > 1 && bytes <= FILE_PATH_MAX_BYTES && text[bytes - 1] != '/' &&
           is_clean_text(text);
}

/* What may stand in an address of the web after its scheme: a host, and no user name before it. */
static bool is_url_after(const char *text, const char *scheme)
{
    size_t host_bytes;

    if (!starts_with(text, scheme) || !all(text, is_visible) || strlen(text) > URL_MAX_BYTES)
        return false;
    text += strlen(scheme);
    host_bytes = strcspn(text, "/?#");
    return host_bytes > 0 && *text != ':' && strchr(text, '#') == NULL;
}

static bool has_user(const char *url)
{
    const char *host = strstr(url, "://") + 3;

    return memchr(host, '@', strcspn(host, "/?#")) != NULL;
}

static bool is_path_char(char c)
{
    return is_visible(c) && c != '?' && c != '#';
}

static bool is_upper_or_digit(char c)
{
    return is_upper(c) || is_digit(c);
}

static bool is_consumer_char(char c)
{
    return is_lower(c) || is_digit(c) || c == '-';
}

static bool is_user_char(char c)
{
    return is_lower(c) || is_upper(c) || is_digit(c) || c == '_' || c == '-' || c == '.' ||
           c == '$';
}

static const char *address_complaint(enum config_kind kind, const char *text)
{
    struct config_address address;

    if (*text == '\0' && kind != CONFIG_KIND_ADDRESS)
        return NULL;
    if (config_address_parse(text, &address) != 0)
        return kind == CONFIG_KIND_UNIX_OR_NONE
                   ? "is no address; takes \"unix:/path\" (of at most 107 bytes), or \"\" for none"
                   : "is no address; takes \"unix:/path\" (of at most 107 bytes), "
                     "\"127.0.0.1:8080\" or \"[::1]:8080\", numeric only";
    if (kind == CONFIG_KIND_UNIX_OR_NONE && address.kind != CONFIG_ADDRESS_UNIX)
        return "must be a unix socket, since who may do what goes by the user of the peer; takes "
               "\"unix:/path\", or \"\" for none";
    return NULL;
}

static const char *client_id_complaint(const char *text)
{
    size_t bytes = strlen(text);

    if (bytes == 0 || bytes > CLIENT_ID_MAX_BYTES || !all(text, is_visible))
        return "is no client_id; takes 1 to 255 visible ASCII characters without spaces, as Apple "
               "shows the App ID or Services ID";
    if (starts_with(text, CONFIG_PROBE_CLIENT_ID))
        return "is reserved for the daemon's own test notifications; takes an App ID or Services "
               "ID of Apple";
    return NULL;
}

static const char *url_complaint(const char *text)
{
    if (!is_url_after(text, "https://") || has_user(text))
        return "is no address to fetch keys from; takes https://host/path, without user name and #";
    return NULL;
}

static const char *issuer_complaint(const char *text)
{
    if (strcmp(text, CONFIG_PROBE_ISSUER) == 0)
        return "is reserved for the daemon's own test notifications; takes "
               "\"https://appleid.apple.com\"";
    if (!is_url_after(text, "https://") || strlen(text) > ISSUER_MAX_BYTES)
        return "is no issuer; takes https URLs of at most 255 characters, as they stand in iss";
    return NULL;
}

static const char *proxy_complaint(const char *text)
{
    if (*text == '\0' || strcmp(text, "environment") == 0 || is_url_after(text, "http://") ||
        is_url_after(text, "https://"))
        return NULL;
    return "is no proxy; takes \"\" for none, \"environment\", or http://host:port";
}

static const char *keys_complaint(const char *text)
{
    enum config_keys_source source;
    const char *path;

    if (!config_value_keys(text, &source, &path))
        return "takes \"url\", \"unix:/path\" (of at most 107 bytes) or \"file:/path\"";
    return NULL;
}

static const char *user_complaint(const char *text)
{
    if (strlen(text) > NAME_MAX_BYTES || *text == '-' || !all(text, is_user_char))
        return "is no user name; takes at most 32 letters, digits and _ . -, or \"\" for root and "
               "the daemon's user only";
    return NULL;
}

const char *config_value_complaint(enum config_kind kind, const char *text)
{
    size_t bytes = strlen(text);
    int64_t seconds;

    switch (kind) {
    case CONFIG_KIND_ADDRESS:
    case CONFIG_KIND_ADDRESS_OR_NONE:
    case CONFIG_KIND_UNIX_OR_NONE:
        return address_complaint(kind, text);
    case CONFIG_KIND_HTTP_PATH:
        return *text == '/' && bytes <= HTTP_PATH_MAX_BYTES && all(text, is_path_char)
                   ? NULL
                   : "is no path of a URL; begins with /, takes at most 255 visible ASCII "
                     "characters without ? and #";
    case CONFIG_KIND_FILE_PATH_OR_NONE:
        if (bytes == 0)
            return NULL;
        /* fall through */
    case CONFIG_KIND_FILE_PATH:
        return is_file_path(text) ? NULL
                                  : "is no file; takes an absolute path of at most 1000 bytes, "
                                    "UTF-8 without control characters";
    case CONFIG_KIND_HTTPS_URL:
        return url_complaint(text);
    case CONFIG_KIND_PROXY:
        return proxy_complaint(text);
    case CONFIG_KIND_CLIENT_ID:
        return client_id_complaint(text);
    case CONFIG_KIND_LABEL:
        return bytes > 0 && bytes <= LABEL_MAX_BYTES && is_clean_text(text)
                   ? NULL
                   : "is no label; takes 1 to 64 bytes of UTF-8 without control characters";
    case CONFIG_KIND_TEAM:
        return bytes == TEAM_BYTES && all(text, is_upper_or_digit)
                   ? NULL
                   : "is no team; takes the 10 capital letters and digits that Apple shows under "
                     "Membership";
    case CONFIG_KIND_CONSUMER_NAME:
        return bytes > 0 && bytes <= NAME_MAX_BYTES && all(text, is_consumer_char)
                   ? NULL
                   : "is no name; takes 1 to 32 small letters, digits and -";
    case CONFIG_KIND_USER:
        return user_complaint(text);
    case CONFIG_KIND_KEYS:
        return keys_complaint(text);
    case CONFIG_KIND_LATE:
        return strcmp(text, "quarantine") == 0 || strcmp(text, "deliver") == 0 ||
                       strcmp(text, "reject") == 0
                   ? NULL
                   : "takes \"quarantine\", \"deliver\" or \"reject\"";
    case CONFIG_KIND_START:
        return strcmp(text, "oldest") == 0 || strcmp(text, "now") == 0
                   ? NULL
                   : "takes \"oldest\" or \"now\"";
    case CONFIG_KIND_ERASE_AFTER:
        return config_value_erase_after(text, &seconds)
                   ? NULL
                   : "takes \"off\", \"acked\" or a duration such as \"30d\"";
    case CONFIG_KIND_DURATION:
        return config_value_duration(text, &seconds)
                   ? NULL
                   : "is no duration; takes a number with its unit: \"90d\", \"12h\", \"30m\" or "
                     "\"45s\"";
    case CONFIG_KIND_ISSUERS:
        return issuer_complaint(text);
    case CONFIG_KIND_IGNORE:
        return config_value_ignore_bit(text) != 0
                   ? NULL
                   : "names a type that is not known; takes \"email-enabled\", "
                     "\"email-disabled\", \"consent-revoked\" and \"account-delete\"";
    case CONFIG_KIND_NUMBER:
    case CONFIG_KIND_SIZE:
    case CONFIG_KIND_APPS:
    case CONFIG_KIND_CONSUMERS:
    case CONFIG_KIND_GROUP:
        break;
    }
    return "is not written as text";
}

bool config_value_erase_after(const char *text, int64_t *ret_s)
{
    int64_t seconds = 0;

    if (strcmp(text, "off") == 0)
        seconds = CONFIG_ERASE_OFF;
    else if (strcmp(text, "acked") == 0)
        seconds = CONFIG_ERASE_ACKED;
    else if (!config_value_duration(text, &seconds) || seconds < 1)
        return false;
    *ret_s = seconds;
    return true;
}

bool config_value_duration(const char *text, int64_t *ret_s)
{
    int64_t number = 0, unit_s;
    const char *at = text;

    for (; is_digit(*at); at++) {
        number = number * 10 + (*at - '0');
        if (number > YEARS_S)
            return false;
    }
    if (at == text || at[0] == '\0' || at[1] != '\0')
        return false;
    switch (*at) {
    case 's':
        unit_s = 1;
        break;
    case 'm':
        unit_s = MINUTE_S;
        break;
    case 'h':
        unit_s = 60 * MINUTE_S;
        break;
    case 'd':
        unit_s = DAY_S;
        break;
    default:
        return false;
    }
    if (number > YEARS_S / unit_s)
        return false;
    *ret_s = number * unit_s;
    return true;
}

bool config_value_keys(const char *text, enum config_keys_source *ret_source, const char **ret_path)
{
    struct config_address address;

    if (strcmp(text, "url") == 0) {
        *ret_source = CONFIG_KEYS_URL;
        *ret_path = NULL;
        return true;
    }
    if (starts_with(text, "unix:") && config_address_parse(text, &address) == 0) {
        *ret_source = CONFIG_KEYS_UNIX;
        *ret_path = text + strlen("unix:");
        return true;
    }
    if (starts_with(text, "file:") && is_file_path(text + strlen("file:"))) {
        *ret_source = CONFIG_KEYS_FILE;
        *ret_path = text + strlen("file:");
        return true;
    }
    return false;
}

unsigned config_value_ignore_bit(const char *type)
{
#define IGNORE_ROW(text, bit) \
    if (strcmp(type, text) == 0) \
        return 1U << (bit);
    CONFIG_IGNORE_TABLE(IGNORE_ROW)
#undef IGNORE_ROW
    return 0;
}

/* The port of "…:8080", or -1. */
static int parse_port(const char *text)
{
    int port = 0;

    if (*text == '\0' || strlen(text) > strlen("65535"))
        return -1;
    for (; *text != '\0'; text++) {
        if (!is_digit(*text))
            return -1;
        port = port * 10 + (*text - '0');
    }
    return port <= UINT16_MAX ? port : -1;
}

static int parse_tcp(const char *text, struct config_address *address)
{
    const char *colon = strrchr(text, ':');
    bool bracketed = *text == '[';
    struct in6_addr numeric;
    size_t host_bytes;
    int port;

    if (colon == NULL)
        return -EINVAL;
    host_bytes = (size_t)(colon - text);
    if (bracketed) {
        if (host_bytes < 3 || text[host_bytes - 1] != ']')
            return -EINVAL;
        text++;
        host_bytes -= 2;
    }
    port = parse_port(colon + 1);
    if (port < 0 || host_bytes >= sizeof address->host)
        return -EINVAL;
    memcpy(address->host, text, host_bytes);
    address->host[host_bytes] = '\0';
    if (inet_pton(bracketed ? AF_INET6 : AF_INET, address->host, &numeric) != 1)
        return -EINVAL;
    address->kind = CONFIG_ADDRESS_TCP;
    address->port = (uint16_t)port;
    return 0;
}

int config_address_parse(const char *text, struct config_address *ret_address)
{
    struct config_address address = {.kind = CONFIG_ADDRESS_NONE};
    const char *path = text + strlen("unix:");

    if (strlen(text) >= sizeof address.text)
        return -EINVAL;
    memcpy(address.text, text, strlen(text));
    if (starts_with(text, "unix:")) {
        if (strlen(path) >= sizeof address.path || !is_file_path(path))
            return -EINVAL;
        memcpy(address.path, path, strlen(path));
        address.kind = CONFIG_ADDRESS_UNIX;
    } else if (parse_tcp(text, &address) != 0) {
        return -EINVAL;
    }
    *ret_address = address;
    return 0;
}
