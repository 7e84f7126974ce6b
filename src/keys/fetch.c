#include "keys/fetch.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fetch_attempt.h"
#include "support/clock.h"

#define USER_AGENT "siwa-notifyd/" SIWA_VERSION
#define STATUS_OK  200
#define TLS_FLOOR  CURL_SSLVERSION_TLSv1_2
#define HOST_BYTES 128 /* of a host name in a reason */

/* One HTTPS transfer. */
struct transfer {
    struct fetch_attempt *attempt;
    CURL *easy;
    CURLM *multi;
    CURLU *url;
    struct curl_slist *headers;
    size_t header_bytes;
    bool too_large;
    bool stopped;
    char host[HOST_BYTES];
    char error[CURL_ERROR_SIZE];
};

const char *fetch_result_label(enum fetch_result result)
{
    static const char *const labels[FETCH_RESULT_COUNT] = {
#define FETCH_RESULT_LABEL(name, label) [FETCH_RESULT_##name] = label,
        FETCH_RESULT_TABLE(FETCH_RESULT_LABEL)
#undef FETCH_RESULT_LABEL
    };
    return result < FETCH_RESULT_COUNT ? labels[result] : labels[FETCH_RESULT_INTERNAL];
}

int fetch_init(void)
{
    return curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? 0 : -ENOMEM;
}

struct version_library fetch_library(void)
{
    struct version_library library = {.name = "libcurl", .built = LIBCURL_VERSION};

    (void)snprintf(library.running, sizeof(library.running), "%s",
                   curl_version_info(CURLVERSION_NOW)->version);
    return library;
}

static void transfer_release(struct transfer *transfer)
{
    if (transfer->multi != NULL && transfer->easy != NULL)
        (void)curl_multi_remove_handle(transfer->multi, transfer->easy);
    curl_easy_cleanup(transfer->easy);
    (void)curl_multi_cleanup(transfer->multi);
    curl_url_cleanup(transfer->url);
    curl_slist_free_all(transfer->headers);
}

static long status_of(const struct transfer *transfer)
{
    long status = 0;
    (void)curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

/* The cap is enforced here: libcurl's own looks at what the server announces. */
static size_t take_body(char *data, size_t unit, size_t count, void *context)
{
    struct transfer *transfer = context;
    if (status_of(transfer) != STATUS_OK)
        return 0; /* only its status matters: end it */
    transfer->too_large = !fetch_attempt_append(transfer->attempt, data, unit * count);
    return transfer->too_large ? 0 : unit * count;
}

static size_t take_header(char *data, size_t unit, size_t count, void *context)
{
    struct transfer *transfer = context;
    (void)data;
    transfer->header_bytes += unit * count;
    transfer->too_large = transfer->header_bytes > FETCH_HEADERS_MAX_BYTES;
    return transfer->too_large ? 0 : unit * count;
}

/* Parses the URL once, with the parser that the transfer uses. */
static enum fetch_result parse_url(struct transfer *transfer)
{
    char *scheme = NULL, *host = NULL;
    transfer->url = curl_url();
    if (transfer->url == NULL)
        return fetch_attempt_fail(transfer->attempt, FETCH_RESULT_INTERNAL, "out of memory");
    if (curl_url_set(transfer->url, CURLUPART_URL, transfer->attempt->source->url, 0) == CURLUE_OK)
        (void)curl_url_get(transfer->url, CURLUPART_SCHEME, &scheme, 0);
    bool has_scheme = scheme != NULL, https = has_scheme && strcmp(scheme, "https") == 0;
    if (https && curl_url_get(transfer->url, CURLUPART_HOST, &host, 0) == CURLUE_OK)
        (void)snprintf(transfer->host, sizeof(transfer->host), "%s", host);
    bool has_host = host != NULL;
    curl_free(scheme);
    curl_free(host);
    if (has_scheme && !https)
        return fetch_attempt_fail(transfer->attempt, FETCH_RESULT_TLS,
                                  "key_url is not https, so whoever is on the way could give keys;"
                                  " write https://HOST/PATH");
    if (!has_host)
        return fetch_attempt_fail(transfer->attempt, FETCH_RESULT_UNREACHABLE,
                                  "key_url is not a URL; write https://HOST/PATH");
    return FETCH_RESULT_OK;
}

static bool set_limits(const struct transfer *transfer)
{
    CURL *easy = transfer->easy;
    long timeout_ms = fetch_attempt_remaining_ms(transfer->attempt) + 1L; /* 0 would be none */
    return curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "https") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "https") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_MAXREDIRS, 0L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout_ms) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, timeout_ms) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)FETCH_TEXT_MAX_BYTES) ==
               CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           /* A resolver that hangs is left behind instead of waited for. */
           curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L) == CURLE_OK;
}

static bool set_tls(const struct transfer *transfer)
{
    CURL *easy = transfer->easy;
    const char *ca_file = transfer->attempt->source->ca_file;
    bool set = curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L) == CURLE_OK &&
               curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L) == CURLE_OK &&
               curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)TLS_FLOOR) == CURLE_OK &&
               curl_easy_setopt(easy, CURLOPT_PROXY_SSL_VERIFYPEER, 1L) == CURLE_OK &&
               curl_easy_setopt(easy, CURLOPT_PROXY_SSL_VERIFYHOST, 2L) == CURLE_OK &&
               curl_easy_setopt(easy, CURLOPT_PROXY_SSLVERSION, (long)TLS_FLOOR) == CURLE_OK;
    if (!set || ca_file == NULL || ca_file[0] == '\0')
        return set;
    /* In place of the system's authorities, not beside them. */
    return curl_easy_setopt(easy, CURLOPT_CAINFO, ca_file) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CAPATH, NULL) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROXY_CAINFO, ca_file) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROXY_CAPATH, NULL) == CURLE_OK;
}

static bool set_proxy(const struct transfer *transfer)
{
    const char *proxy = transfer->attempt->source->proxy;
    if (proxy != NULL && strcmp(proxy, "environment") == 0)
        return true;
    /* An empty string, unlike NULL, also keeps https_proxy and no_proxy of the environment out. */
    return curl_easy_setopt(transfer->easy, CURLOPT_PROXY, proxy == NULL ? "" : proxy) ==
               CURLE_OK &&
           curl_easy_setopt(transfer->easy, CURLOPT_NOPROXY, "") == CURLE_OK;
}

static bool set_request(struct transfer *transfer)
{
    CURL *easy = transfer->easy;
    transfer->headers = curl_slist_append(NULL, "Accept: application/json");
    return transfer->headers != NULL &&
           curl_easy_setopt(easy, CURLOPT_CURLU, transfer->url) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_USERAGENT, USER_AGENT) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error) == CURLE_OK;
}

/* Whether the attempt is to stop, seen without waiting. */
static bool stop_asked(const struct curl_waitfd *stop)
{
    return (stop->revents & CURL_WAIT_POLLIN) != 0;
}

/* Runs the transfer to its end, its deadline, or until it is to stop. */
static CURLcode perform(struct transfer *transfer)
{
    struct curl_waitfd stop = {.fd = transfer->attempt->stop_fd, .events = CURL_WAIT_POLLIN};
    unsigned stop_count = transfer->attempt->stop_fd >= 0 ? 1 : 0;
    int running = 1;
    while (running > 0) {
        if (curl_multi_perform(transfer->multi, &running) != CURLM_OK)
            return CURLE_FAILED_INIT;
        if (running == 0)
            break;
        int remaining_ms = fetch_attempt_remaining_ms(transfer->attempt);
        if (remaining_ms == 0)
            return CURLE_OPERATION_TIMEDOUT;
        if (curl_multi_poll(transfer->multi, &stop, stop_count, remaining_ms, NULL) != CURLM_OK)
            return CURLE_FAILED_INIT;
        transfer->stopped = stop_asked(&stop);
        if (transfer->stopped)
            return CURLE_ABORTED_BY_CALLBACK;
    }
    int queued;
    const CURLMsg *message = curl_multi_info_read(transfer->multi, &queued);
    return message != NULL && message->msg == CURLMSG_DONE ? message->data.result
                                                           : CURLE_FAILED_INIT;
}

/* What a failure of libcurl is called. */
static enum fetch_result result_of(CURLcode code)
{
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PROXY:
        return FETCH_RESULT_UNREACHABLE;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
        return FETCH_RESULT_TLS;
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        return FETCH_RESULT_CUT_SHORT;
    case CURLE_FILESIZE_EXCEEDED:
        return FETCH_RESULT_TOO_LARGE;
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL: /* HTTP/0.9 */
        return FETCH_RESULT_STATUS;
    default:
        return FETCH_RESULT_INTERNAL;
    }
}

static enum fetch_result judge_timeout(struct transfer *transfer)
{
    curl_off_t secured_us = 0; /* when the TLS handshake was over */
    (void)curl_easy_getinfo(transfer->easy, CURLINFO_APPCONNECT_TIME_T, &secured_us);
    if (secured_us > 0)
        return fetch_attempt_fail(transfer->attempt, FETCH_RESULT_TIMEOUT,
                                  "%s did not send a whole answer in time", transfer->host);
    return fetch_attempt_fail(transfer->attempt, FETCH_RESULT_UNREACHABLE,
                              "%s could not be reached in time", transfer->host);
}

static enum fetch_result judge(struct transfer *transfer, CURLcode code)
{
    struct fetch_attempt *attempt = transfer->attempt;
    long status = status_of(transfer);
    curl_off_t announced = -1;
    if (transfer->stopped)
        return fetch_attempt_fail(attempt, FETCH_RESULT_INTERNAL, "asking %s: stopped",
                                  transfer->host);
    if (transfer->too_large)
        return fetch_attempt_fail(attempt, FETCH_RESULT_TOO_LARGE,
                                  "%s sent more than a key set can need", transfer->host);
    if (status >= 300 && status < 400)
        return fetch_attempt_fail(attempt, FETCH_RESULT_STATUS,
                                  "%s answered %ld; redirects are never followed, so set key_url to"
                                  " where the keys are",
                                  transfer->host, status);
    /* The end of an answer that is not looked at may well be an error of our own making. */
    if (status > STATUS_OK)
        return fetch_attempt_fail(attempt, FETCH_RESULT_STATUS, "%s answered %ld, not 200",
                                  transfer->host, status);
    if (code == CURLE_OPERATION_TIMEDOUT)
        return judge_timeout(transfer);
    if (code != CURLE_OK)
        return fetch_attempt_fail(attempt, result_of(code), "%s: %s", transfer->host,
                                  transfer->error[0] != '\0' ? transfer->error
                                                             : curl_easy_strerror(code));
    if (status != STATUS_OK)
        return fetch_attempt_fail(attempt, FETCH_RESULT_STATUS, "%s gave no HTTP answer",
                                  transfer->host);
    /* An answer without a length ends with its connection; it needs no check, as no part of a JSON
     * object is a JSON object. */
    (void)curl_easy_getinfo(transfer->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &announced);
    if (announced >= 0 && (size_t)announced != attempt->bytes)
        return fetch_attempt_fail(attempt, FETCH_RESULT_CUT_SHORT,
                                  "%s announced %lld bytes and sent %zu", transfer->host,
                                  (long long)announced, attempt->bytes);
    return FETCH_RESULT_OK;
}

static enum fetch_result fetch_url(struct fetch_attempt *attempt)
{
    struct transfer transfer __attribute__((cleanup(transfer_release))) = {.attempt = attempt};
    enum fetch_result parsed = parse_url(&transfer);
    if (parsed != FETCH_RESULT_OK)
        return parsed;

    transfer.easy = curl_easy_init();
    transfer.multi = curl_multi_init();
    if (transfer.easy == NULL || transfer.multi == NULL || !set_limits(&transfer) ||
        !set_tls(&transfer) || !set_proxy(&transfer) || !set_request(&transfer) ||
        curl_multi_add_handle(transfer.multi, transfer.easy) != CURLM_OK)
        return fetch_attempt_fail(attempt, FETCH_RESULT_INTERNAL, "libcurl could not be prepared");
    return judge(&transfer, perform(&transfer));
}

static enum fetch_result attempt_run(struct fetch_attempt *attempt)
{
    switch (attempt->source->kind) {
    case CONFIG_KEYS_URL:
        return fetch_url(attempt);
    case CONFIG_KEYS_UNIX:
        return fetch_unix(attempt);
    case CONFIG_KEYS_FILE:
        return fetch_file(attempt);
    }
    return fetch_attempt_fail(attempt, FETCH_RESULT_INTERNAL, "unknown kind of key source");
}

enum fetch_result fetch_keys_text_until(const struct fetch_source *source, int stop_fd,
                                        char **ret_text, size_t *ret_bytes,
                                        char ret_why[FETCH_WHY_BYTES])
{
    int timeout_ms = source->timeout_ms > 0 ? source->timeout_ms : FETCH_TIMEOUT_MS;
    struct fetch_attempt attempt = {.source = source,
                                    .stop_fd = stop_fd,
                                    .deadline_ms = clock_monotonic_ms() + timeout_ms,
                                    .text = malloc(FETCH_TEXT_MAX_BYTES + 1),
                                    .why = ret_why};
    if (attempt.text == NULL)
        return fetch_attempt_fail(&attempt, FETCH_RESULT_INTERNAL, "out of memory");

    enum fetch_result result = attempt_run(&attempt);
    if (result != FETCH_RESULT_OK) {
        free(attempt.text);
        return result;
    }
    attempt.text[attempt.bytes] = '\0';
    *ret_text = attempt.text;
    *ret_bytes = attempt.bytes;
    return result;
}

enum fetch_result fetch_keys_text(const struct fetch_source *source, char **ret_text,
                                  size_t *ret_bytes, char ret_why[FETCH_WHY_BYTES])
{
    return fetch_keys_text_until(source, FETCH_NEVER_STOPPED, ret_text, ret_bytes, ret_why);
}
