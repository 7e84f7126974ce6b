#include "cli/call.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#define CALL_METHOD_MAX_BYTES 16

/* A text that grows up to a bound and ends in NUL. */
struct text {
    char *bytes;
    size_t used, room, bound;
    bool too_large, out_of_memory;
};

struct call {
    const struct call_request *request;
    CURL *curl;
    struct curl_slist *headers;
    struct text reply_headers, reply_body;
    bool headers_over; /* the library takes an end of file among them for their end */
};

__attribute__((format(printf, 3, 4))) static int refuse(char ret_why[CALL_WHY_BYTES], int error,
                                                        const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(ret_why, CALL_WHY_BYTES, format, arguments); /* cut at its end is fine */
    va_end(arguments);
    return error;
}

static bool text_append(struct text *text, const char *bytes, size_t count)
{
    if (count > text->bound - text->used) {
        text->too_large = true;
        return false;
    }
    if (text->used + count + 1 > text->room) {
        size_t room = 2 * (text->used + count + 1);
        char *grown = realloc(text->bytes, room);
        if (!grown) {
            text->out_of_memory = true;
            return false;
        }
        text->bytes = grown;
        text->room = room;
    }
    if (count > 0)
        memcpy(text->bytes + text->used, bytes, count);
    text->used += count;
    text->bytes[text->used] = '\0';
    return true;
}

static void text_clear(struct text *text)
{
    text->used = 0;
    if (text->bytes)
        text->bytes[0] = '\0';
}

static size_t on_body(char *bytes, size_t size, size_t count, void *context)
{
    struct call *call = context;

    return text_append(&call->reply_body, bytes, size * count) ? size * count : 0;
}

static size_t on_header(char *bytes, size_t size, size_t count, void *context)
{
    struct call *call = context;
    size_t line_bytes = size * count;
    size_t kept = line_bytes;

    if (line_bytes >= 5 && memcmp(bytes, "HTTP/", 5) == 0) {
        text_clear(&call->reply_headers); /* of the final answer only, not of a 100 before it */
        call->headers_over = false;
        return line_bytes;
    }
    while (kept > 0 && (bytes[kept - 1] == '\r' || bytes[kept - 1] == '\n'))
        kept--;
    if (kept == 0) {
        call->headers_over = true;
        return line_bytes;
    }
    return text_append(&call->reply_headers, bytes, kept) &&
                   text_append(&call->reply_headers, "\n", 1)
               ? line_bytes
               : 0;
}

/* Called about once a second while nothing comes. */
static int on_progress(void *context, curl_off_t down_all, curl_off_t down, curl_off_t up_all,
                       curl_off_t up)
{
    const struct call_request *request = context;

    (void)down_all;
    (void)down;
    (void)up_all;
    (void)up;
    return *request->stop != 0;
}

/* ---- what is asked ---- */

static bool method_plausible(const char *method)
{
    size_t bytes = method ? strlen(method) : 0;

    return bytes > 0 && bytes < CALL_METHOD_MAX_BYTES &&
           strspn(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == bytes;
}

static int check_request(const struct call_request *request, char ret_why[CALL_WHY_BYTES])
{
    if (!request->url || strlen(request->url) == 0)
        return refuse(ret_why, -EINVAL, "there is no address to call");
    if (!method_plausible(request->method))
        return refuse(ret_why, -EINVAL, "the method is not an HTTP method in upper case");
    if (request->timeout_ms == 0 || request->reply_max_bytes == 0)
        return refuse(ret_why, -EINVAL, "a call needs a time limit and a size limit");
    if (request->unix_socket &&
        (request->unix_socket[0] != '/' ||
         strlen(request->unix_socket) >= sizeof((struct sockaddr_un *)0)->sun_path))
        return refuse(ret_why, -EINVAL,
                      "the path of a socket must begin with / and have at most %zu characters",
                      sizeof((struct sockaddr_un *)0)->sun_path - 1);
    return 0;
}

static bool host_is_here(const char *host)
{
    struct in_addr four;
    struct in6_addr six;
    char inner[INET6_ADDRSTRLEN];
    size_t bytes = strlen(host);

    if (strcasecmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, &four) == 1)
        return ntohl(four.s_addr) >> 24 == 127;
    if (bytes < 2 || bytes - 2 >= sizeof inner || host[0] != '[' || host[bytes - 1] != ']')
        return false;
    memcpy(inner, host + 1, bytes - 2);
    inner[bytes - 2] = '\0';
    return inet_pton(AF_INET6, inner, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

/* Judges the address; ret_here tells whether it is this machine itself. */
static int check_url(const char *url, bool *ret_here, char ret_why[CALL_WHY_BYTES])
{
    CURLU *parsed = curl_url();
    char *scheme = NULL, *host = NULL;
    int error = 0;

    if (!parsed)
        return refuse(ret_why, -ENOMEM, "memory is out");
    if (curl_url_set(parsed, CURLUPART_URL, url, CURLU_DISALLOW_USER) != CURLUE_OK ||
        curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
        curl_url_get(parsed, CURLUPART_HOST, &host, 0) != CURLUE_OK)
        error = refuse(ret_why, -EINVAL,
                       "the address is no URL; write http://host/path or https://host/path");
    else if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
        error = refuse(ret_why, -EINVAL, "only http:// and https:// can be called");
    else
        *ret_here = host_is_here(host);
    curl_free(scheme);
    curl_free(host);
    curl_url_cleanup(parsed);
    return error;
}

/* A part of a URL, freed here; false where it is missing or too long. */
static bool copy_part(CURLU *url, CURLUPart part, unsigned flags, char *ret_text, size_t capacity)
{
    char *text = NULL;
    bool fits = curl_url_get(url, part, &text, flags) == CURLUE_OK && strlen(text) < capacity;

    if (fits)
        strcpy(ret_text, text);
    curl_free(text);
    return fits;
}

static void without_brackets(char *host)
{
    size_t bytes = strlen(host);

    if (bytes < 2 || host[0] != '[')
        return;
    memmove(host, host + 1, bytes - 2);
    host[bytes - 2] = '\0';
}

int call_split_url(const char *url, struct call_url *ret_url, char ret_why[CALL_WHY_BYTES])
{
    struct call_url parts = {0};
    char scheme[16] = "", query[1024] = "";
    CURLU *parsed = curl_url();
    bool taken =
        parsed && curl_url_set(parsed, CURLUPART_URL, url, CURLU_DISALLOW_USER) == CURLUE_OK &&
        copy_part(parsed, CURLUPART_SCHEME, 0, scheme, sizeof scheme) &&
        copy_part(parsed, CURLUPART_HOST, 0, parts.host, sizeof parts.host) &&
        copy_part(parsed, CURLUPART_PORT, CURLU_DEFAULT_PORT, parts.port, sizeof parts.port) &&
        copy_part(parsed, CURLUPART_PATH, 0, parts.path, sizeof parts.path);

    if (taken && copy_part(parsed, CURLUPART_QUERY, 0, query, sizeof query))
        taken = strlen(parts.path) + 1 + strlen(query) < sizeof parts.path;
    curl_url_cleanup(parsed);
    if (!taken || (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0))
        return refuse(ret_why, -EINVAL, "not a URL; write https://host/path");
    if (query[0] != '\0') {
        strcat(parts.path, "?");
        strcat(parts.path, query);
    }
    parts.https = strcmp(scheme, "https") == 0;
    without_brackets(parts.host);
    *ret_url = parts;
    return 0;
}

static bool add_header(struct call *call, const char *line)
{
    struct curl_slist *longer = curl_slist_append(call->headers, line);

    if (!longer)
        return false;
    call->headers = longer;
    return true;
}

static bool add_headers(struct call *call)
{
    const struct call_request *request = call->request;
    char *line = NULL;
    /* Without these the library sends a content type and an Expect of its own. */
    bool added = add_header(call, "Expect:");

    if (!request->body || !request->content_type)
        return added && add_header(call, "Content-Type:");
    if (asprintf(&line, "Content-Type: %s", request->content_type) < 0)
        return false;
    added = added && add_header(call, line);
    free(line);
    return added;
}

static bool set_body(struct call *call)
{
    const struct call_request *request = call->request;
    bool post = request->body || strcmp(request->method, "POST") == 0;

    if (!post)
        return strcmp(request->method, "HEAD") != 0 ||
               curl_easy_setopt(call->curl, CURLOPT_NOBODY, 1L) == CURLE_OK;
    return curl_easy_setopt(call->curl, CURLOPT_POST, 1L) == CURLE_OK &&
           curl_easy_setopt(call->curl, CURLOPT_POSTFIELDSIZE_LARGE,
                            (curl_off_t)(request->body ? request->body_bytes : 0)) == CURLE_OK &&
           curl_easy_setopt(call->curl, CURLOPT_POSTFIELDS, request->body ? request->body : "") ==
               CURLE_OK;
}

static bool set_options(struct call *call, bool here)
{
    const struct call_request *request = call->request;
    CURL *curl = call->curl;
    bool set = add_headers(call) && set_body(call);

#define SET(option, value) (set = set && curl_easy_setopt(curl, (option), (value)) == CURLE_OK)
    SET(CURLOPT_URL, request->url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_CUSTOMREQUEST, request->method);
    SET(CURLOPT_HTTPHEADER, call->headers);
    SET(CURLOPT_TIMEOUT_MS, (long)request->timeout_ms);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, call);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, call);
    if (request->stop) {
        SET(CURLOPT_XFERINFOFUNCTION, on_progress);
        SET(CURLOPT_XFERINFODATA, request);
        SET(CURLOPT_NOPROGRESS, 0L);
    }
    if (request->unix_socket)
        SET(CURLOPT_UNIX_SOCKET_PATH, request->unix_socket);
    if (request->unix_socket || here)
        SET(CURLOPT_PROXY, "");
    if (request->ca_file && request->ca_file[0] != '\0') {
        SET(CURLOPT_CAINFO, request->ca_file);
        SET(CURLOPT_CAPATH, NULL);
    }
#undef SET
    return set;
}

/* ---- what came of it ---- */

/* The place that was called, for a sentence. A URL may carry a secret in its query, so only host
 * and port are shown; a user before them was refused. */
static void name_place(const struct call *call, char *ret_place, size_t capacity)
{
    const char *url = call->request->url;
    const char *host = strstr(url, "://");
    size_t bytes;

    if (call->request->unix_socket) {
        (void)snprintf(ret_place, capacity, "%s", call->request->unix_socket);
        return;
    }
    host = host ? host + 3 : url;
    bytes = strcspn(host, "/?#");
    (void)snprintf(ret_place, capacity, "%.*s", (int)(bytes > 128 ? 128 : bytes), host);
}

static int explain_connect(const struct call *call, const char *place, char ret_why[CALL_WHY_BYTES])
{
    long system_error = 0;

    (void)curl_easy_getinfo(call->curl, CURLINFO_OS_ERRNO, &system_error); /* 0 stays 0 */
    switch (system_error) {
    case ENOENT:
        return refuse(ret_why, -ENOENT, "there is no socket at %s", place);
    case EACCES:
        return refuse(ret_why, -EACCES,
                      "%s may not be opened by this user: its group may, and root", place);
    case ECONNREFUSED:
        return refuse(ret_why, -ECONNREFUSED, "nobody listens at %s", place);
    case 0:
        return refuse(ret_why, -EIO, "%s cannot be reached", place);
    default:
        return refuse(ret_why, -EIO, "%s cannot be reached: %s", place,
                      strerror((int)system_error));
    }
}

static int explain(const struct call *call, CURLcode code, char ret_why[CALL_WHY_BYTES])
{
    char place[160];

    name_place(call, place, sizeof place);
    if (call->reply_body.out_of_memory || call->reply_headers.out_of_memory)
        return refuse(ret_why, -ENOMEM, "memory is out");
    if (call->reply_headers.too_large)
        return refuse(ret_why, -EFBIG, "the headers of the answer of %s exceed %d bytes", place,
                      CALL_HEADERS_MAX_BYTES);
    if (call->reply_body.too_large)
        return refuse(ret_why, -EFBIG, "the answer of %s exceeds %zu bytes", place,
                      call->request->reply_max_bytes);
    switch (code) {
    case CURLE_ABORTED_BY_CALLBACK:
        return refuse(ret_why, -ECANCELED, "told to stop");
    case CURLE_OUT_OF_MEMORY:
        return refuse(ret_why, -ENOMEM, "memory is out");
    case CURLE_COULDNT_RESOLVE_HOST:
        return refuse(ret_why, -EIO, "the name of %s cannot be resolved", place);
    case CURLE_COULDNT_CONNECT:
        return explain_connect(call, place, ret_why);
    case CURLE_OPERATION_TIMEDOUT:
        return refuse(ret_why, -ETIMEDOUT, "%s gave no whole answer within %u ms", place,
                      call->request->timeout_ms);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_CIPHER:
        return refuse(ret_why, -EKEYREJECTED, "TLS with %s failed: %s", place,
                      curl_easy_strerror(code));
    case CURLE_PARTIAL_FILE:
        return refuse(ret_why, -EPROTO, "the answer of %s was cut short", place);
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        return refuse(ret_why, -EPROTO, "%s closed the connection without a whole answer", place);
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
        return refuse(ret_why, -EPROTO, "%s does not answer in HTTP", place);
    default:
        return refuse(ret_why, -EIO, "calling %s failed: %s", place, curl_easy_strerror(code));
    }
}

static int take_reply(struct call *call, struct call_reply *ret_reply, char ret_why[CALL_WHY_BYTES])
{
    long status = 0;
    long version = 0;

    if (curl_easy_getinfo(call->curl, CURLINFO_RESPONSE_CODE, &status) != CURLE_OK ||
        curl_easy_getinfo(call->curl, CURLINFO_HTTP_VERSION, &version) != CURLE_OK ||
        status < 100 || status > 999 || version == CURL_HTTP_VERSION_NONE)
        return explain(call, CURLE_WEIRD_SERVER_REPLY, ret_why);
    if (!call->headers_over)
        return explain(call, CURLE_PARTIAL_FILE, ret_why);
    if (!text_append(&call->reply_headers, "", 0) || !text_append(&call->reply_body, "", 0))
        return refuse(ret_why, -ENOMEM, "memory is out");
    *ret_reply = (struct call_reply){
        .status = (unsigned)status,
        .headers = call->reply_headers.bytes,
        .body = call->reply_body.bytes,
        .body_bytes = call->reply_body.used,
    };
    call->reply_headers.bytes = NULL;
    call->reply_body.bytes = NULL;
    return 0;
}

static void call_release(struct call *call)
{
    curl_slist_free_all(call->headers);
    curl_easy_cleanup(call->curl);
    free(call->reply_headers.bytes);
    free(call->reply_body.bytes);
}

int call_send(const struct call_request *request, struct call_reply *ret_reply,
              char ret_why[CALL_WHY_BYTES])
{
    bool here = false;
    int error = check_request(request, ret_why);

    if (error == 0)
        error = check_url(request->url, &here, ret_why);
    if (error < 0)
        return error;

    __attribute__((cleanup(call_release))) struct call call = {
        .request = request,
        .curl = curl_easy_init(), /* prepares the library as a whole the first time */
        .reply_headers.bound = CALL_HEADERS_MAX_BYTES,
        .reply_body.bound = request->reply_max_bytes,
    };
    if (!call.curl || !set_options(&call, here))
        return refuse(ret_why, -ENOMEM, "memory is out");
    CURLcode code = curl_easy_perform(call.curl);
    if (code != CURLE_OK)
        return explain(&call, code, ret_why);
    return take_reply(&call, ret_reply, ret_why);
}

void call_reply_release(struct call_reply *reply)
{
    if (!reply)
        return;
    free(reply->headers);
    free(reply->body);
    *reply = (struct call_reply){0};
}

int call_reply_header(const struct call_reply *reply, const char *name, char *ret_value,
                      size_t capacity)
{
    size_t name_bytes = strlen(name);

    for (const char *line = reply->headers; *line != '\0';) {
        size_t line_bytes = strcspn(line, "\n");
        if (line_bytes > name_bytes && line[name_bytes] == ':' &&
            strncasecmp(line, name, name_bytes) == 0) {
            const char *value = line + name_bytes + 1;
            size_t value_bytes = line_bytes - name_bytes - 1;
            while (value_bytes > 0 && (*value == ' ' || *value == '\t')) {
                value++;
                value_bytes--;
            }
            while (value_bytes > 0 &&
                   (value[value_bytes - 1] == ' ' || value[value_bytes - 1] == '\t'))
                value_bytes--;
            (void)snprintf(ret_value, capacity, "%.*s", (int)value_bytes, value);
            return 0;
        }
        line += line_bytes + (line[line_bytes] == '\n');
    }
    return -ENOENT;
}
