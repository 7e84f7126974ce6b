/* The HTTP client of the commands, against servers on a unix socket that say exactly what a case
 * needs: one connection, a canned answer, closed. */
#include "cli/call.h"

#include <check.h>
#include <errno.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct server {
    char directory[64];
    char path[96];
    int listen_fd;
    const char *answer; /* NULL: stays silent until the client leaves */
    size_t answer_bytes;
    char request[8192];
    size_t request_bytes;
    pthread_t thread;
    SSL_CTX *tls; /* NULL for plain text */
};

static void read_request(struct server *server, int fd)
{
    for (;;) {
        size_t room = sizeof server->request - 1 - server->request_bytes;
        ssize_t count = read(fd, server->request + server->request_bytes, room);
        if (count <= 0)
            return;
        server->request_bytes += (size_t)count;
        server->request[server->request_bytes] = '\0';
        const char *end = strstr(server->request, "\r\n\r\n");
        const char *length = strcasestr(server->request, "\r\nContent-Length:");
        if (!end)
            continue;
        size_t body = length ? strtoul(length + 17, NULL, 10) : 0;
        size_t have = server->request_bytes - (size_t)(end + 4 - server->request);
        if (have >= body && server->answer)
            return;
    }
}

/* What the client says is not looked at; whether it gets this far is the question. */
static void serve_tls(struct server *server, int fd)
{
    SSL *tls = SSL_new(server->tls);
    char request[1024];

    if (tls && SSL_set_fd(tls, fd) == 1 && SSL_accept(tls) == 1 &&
        SSL_read(tls, request, sizeof request) > 0) {
        (void)SSL_write(tls, server->answer, (int)server->answer_bytes);
        (void)SSL_shutdown(tls);
    }
    SSL_free(tls);
}

static void *serve(void *context)
{
    struct server *server = context;
    int fd = accept(server->listen_fd, NULL, NULL);

    if (fd < 0)
        return NULL;
    if (server->tls) {
        serve_tls(server, fd);
        (void)close(fd);
        return NULL;
    }
    read_request(server, fd);
    for (size_t sent = 0; server->answer && sent < server->answer_bytes;) {
        ssize_t count = send(fd, server->answer + sent, server->answer_bytes - sent, MSG_NOSIGNAL);
        if (count <= 0)
            break;
        sent += (size_t)count;
    }
    (void)close(fd);
    return NULL;
}

static void server_start_tls(struct server *server, const char *answer, size_t answer_bytes,
                             SSL_CTX *tls)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    *server = (struct server){.answer = answer, .answer_bytes = answer_bytes, .tls = tls};
    strcpy(server->directory, "/tmp/siwa-call-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(server->directory));
    ck_assert_int_lt(snprintf(server->path, sizeof server->path, "%s/s", server->directory),
                     (int)sizeof server->path);
    strcpy(address.sun_path, server->path);
    server->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(server->listen_fd, 0);
    ck_assert_int_eq(bind(server->listen_fd, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(listen(server->listen_fd, 8), 0);
    ck_assert_int_eq(pthread_create(&server->thread, NULL, serve, server), 0);
}

static void server_start(struct server *server, const char *answer, size_t answer_bytes)
{
    server_start_tls(server, answer, answer_bytes, NULL);
}

static void server_stop(struct server *server)
{
    (void)shutdown(server->listen_fd, SHUT_RDWR);
    ck_assert_int_eq(pthread_join(server->thread, NULL), 0);
    (void)close(server->listen_fd);
    (void)unlink(server->path);
    (void)rmdir(server->directory);
}

static struct call_request get_from(const struct server *server)
{
    return (struct call_request){
        .url = "http://daemon/v1/keys",
        .unix_socket = server->path,
        .method = "GET",
        .timeout_ms = 10000,
        .reply_max_bytes = 1000,
    };
}

/* Calls a server that gives this answer; what it was asked stands in ret_request. */
static int call_one(const char *answer, struct call_reply *ret_reply, char why[CALL_WHY_BYTES])
{
    struct server server;

    server_start(&server, answer, strlen(answer));
    struct call_request request = get_from(&server);
    int result = call_send(&request, ret_reply, why);
    server_stop(&server);
    return result;
}

START_TEST(an_answer_comes_back_whole)
{
    struct call_reply reply;
    char why[CALL_WHY_BYTES], value[32];

    ck_assert_int_eq(
        call_one("HTTP/1.1 404 Not Found\r\nContent-Type:  application/problem+json \r\n"
                 "X-Empty:\r\nContent-Length: 5\r\n\r\nhello",
                 &reply, why),
        0);
    ck_assert_uint_eq(reply.status, 404);
    ck_assert_uint_eq(reply.body_bytes, 5);
    ck_assert_str_eq(reply.body, "hello");
    ck_assert_int_eq(call_reply_header(&reply, "content-type", value, sizeof value), 0);
    ck_assert_str_eq(value, "application/problem+json");
    ck_assert_int_eq(call_reply_header(&reply, "X-Empty", value, sizeof value), 0);
    ck_assert_str_eq(value, "");
    ck_assert_int_eq(call_reply_header(&reply, "Content-Type", value, 6), 0);
    ck_assert_str_eq(value, "appli");
    ck_assert_int_eq(call_reply_header(&reply, "Content", value, sizeof value), -ENOENT);
    call_reply_release(&reply);
    ck_assert_ptr_null(reply.body);
}
END_TEST

START_TEST(an_empty_answer_has_an_empty_body)
{
    struct call_reply reply;
    char why[CALL_WHY_BYTES];

    ck_assert_int_eq(call_one("HTTP/1.1 204 No Content\r\n\r\n", &reply, why), 0);
    ck_assert_uint_eq(reply.status, 204);
    ck_assert_uint_eq(reply.body_bytes, 0);
    ck_assert_str_eq(reply.body, "");
    call_reply_release(&reply);
}
END_TEST

START_TEST(a_body_is_sent_as_it_is)
{
    struct server server;
    struct call_reply reply;
    char why[CALL_WHY_BYTES];
    const char *answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

    server_start(&server, answer, strlen(answer));
    struct call_request request = get_from(&server);
    request.method = "POST";
    request.body = "{\"kid\": \"a\"}";
    request.body_bytes = strlen(request.body);
    request.content_type = "application/json";
    ck_assert_int_eq(call_send(&request, &reply, why), 0);
    server_stop(&server);
    ck_assert_ptr_nonnull(strstr(server.request, "POST /v1/keys HTTP/1.1\r\n"));
    ck_assert_ptr_nonnull(strstr(server.request, "\r\nContent-Type: application/json\r\n"));
    ck_assert_ptr_nonnull(strstr(server.request, "\r\nContent-Length: 12\r\n"));
    ck_assert_ptr_null(strcasestr(server.request, "\r\nExpect:"));
    ck_assert_ptr_null(strcasestr(server.request, "\r\nTransfer-Encoding:"));
    ck_assert_ptr_nonnull(strstr(server.request, "\r\n\r\n{\"kid\": \"a\"}"));
    call_reply_release(&reply);
}
END_TEST

START_TEST(a_post_without_a_body_says_so)
{
    struct server server;
    struct call_reply reply;
    char why[CALL_WHY_BYTES];
    const char *answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

    server_start(&server, answer, strlen(answer));
    struct call_request request = get_from(&server);
    request.method = "POST";
    ck_assert_int_eq(call_send(&request, &reply, why), 0);
    server_stop(&server);
    ck_assert_ptr_nonnull(strstr(server.request, "\r\nContent-Length: 0\r\n"));
    ck_assert_ptr_null(strcasestr(server.request, "\r\nContent-Type:"));
    call_reply_release(&reply);
}
END_TEST

/* Attack: a server sends a client on to a place of its own choice. The redirect is the answer. */
START_TEST(a_redirect_is_not_followed)
{
    struct call_reply reply;
    char why[CALL_WHY_BYTES], value[64];

    ck_assert_int_eq(call_one("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n"
                              "Content-Length: 0\r\n\r\n",
                              &reply, why),
                     0);
    ck_assert_uint_eq(reply.status, 302);
    ck_assert_int_eq(call_reply_header(&reply, "Location", value, sizeof value), 0);
    ck_assert_str_eq(value, "http://127.0.0.1:1/");
    call_reply_release(&reply);
}
END_TEST

START_TEST(headers_are_those_of_the_final_answer)
{
    struct call_reply reply;
    char why[CALL_WHY_BYTES], value[32];

    ck_assert_int_eq(call_one("HTTP/1.1 103 Early Hints\r\nX-From: hint\r\n\r\n"
                              "HTTP/1.1 200 OK\r\nX-From: answer\r\nContent-Length: 0\r\n\r\n",
                              &reply, why),
                     0);
    ck_assert_int_eq(call_reply_header(&reply, "X-From", value, sizeof value), 0);
    ck_assert_str_eq(value, "answer");
    call_reply_release(&reply);
}
END_TEST

/* Attack: an answer without end fills the memory of the command. The limit holds whether the length
 * is announced or not. */
START_TEST(an_answer_beyond_the_limit_is_refused)
{
    char answer[1200] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    struct call_reply reply;
    char why[CALL_WHY_BYTES];
    size_t head = strlen(answer);

    memset(answer + head, 'a', 1000);
    answer[head + 1000] = '\0';
    ck_assert_int_eq(call_one(answer, &reply, why), 0); /* exactly the limit */
    call_reply_release(&reply);
    answer[head + 1000] = 'a';
    answer[head + 1001] = '\0';
    ck_assert_int_eq(call_one(answer, &reply, why), -EFBIG);
    ck_assert_ptr_nonnull(strstr(why, "1000 bytes"));
}
END_TEST

START_TEST(headers_beyond_the_limit_are_refused)
{
    static char answer[3 * CALL_HEADERS_MAX_BYTES];
    struct call_reply reply;
    char why[CALL_WHY_BYTES];
    size_t used = (size_t)snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\n");

    while (used < CALL_HEADERS_MAX_BYTES * 2)
        used += (size_t)snprintf(answer + used, sizeof answer - used, "X-Many: %064d\r\n", 0);
    (void)snprintf(answer + used, sizeof answer - used, "Content-Length: 0\r\n\r\n");
    ck_assert_int_eq(call_one(answer, &reply, why), -EFBIG);
}
END_TEST

START_TEST(an_answer_cut_short_is_refused)
{
    struct call_reply reply;
    char why[CALL_WHY_BYTES];

    ck_assert_int_eq(call_one("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", &reply, why),
                     -EPROTO);
    ck_assert_int_eq(call_one("HTTP/1.1 200 OK\r\nContent-L", &reply, why), -EPROTO);
    ck_assert_int_eq(call_one("", &reply, why), -EPROTO);
}
END_TEST

START_TEST(what_is_no_http_is_refused)
{
    struct call_reply reply;
    char why[CALL_WHY_BYTES];

    ck_assert_int_eq(call_one("220 mail.example ESMTP\r\n", &reply, why), -EPROTO);
}
END_TEST

START_TEST(a_silent_server_is_a_time_out)
{
    struct server server;
    struct call_reply reply;
    char why[CALL_WHY_BYTES];

    server_start(&server, NULL, 0);
    struct call_request request = get_from(&server);
    request.timeout_ms = 50;
    ck_assert_int_eq(call_send(&request, &reply, why), -ETIMEDOUT);
    server_stop(&server);
    ck_assert_ptr_nonnull(strstr(why, server.path));
}
END_TEST

START_TEST(no_socket_no_listener_and_no_permission_are_told_apart)
{
    struct server server;
    struct call_reply reply;
    char why[CALL_WHY_BYTES];
    const char *answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

    server_start(&server, answer, strlen(answer));
    struct call_request request = get_from(&server);
    if (geteuid() != 0) { /* root opens everything */
        ck_assert_int_eq(chmod(server.path, 0), 0);
        ck_assert_int_eq(call_send(&request, &reply, why), -EACCES);
        ck_assert_int_eq(chmod(server.path, 0600), 0);
    }
    (void)shutdown(server.listen_fd, SHUT_RDWR);
    ck_assert_int_eq(call_send(&request, &reply, why), -ECONNREFUSED);
    ck_assert_ptr_nonnull(strstr(why, server.path));
    server_stop(&server);
    ck_assert_int_eq(call_send(&request, &reply, why), -ENOENT);
    ck_assert_ptr_nonnull(strstr(why, server.path));
}
END_TEST

/* What cannot be meant is refused before anything is sent. The secret parts of a URL are in no
 * sentence. */
START_TEST(a_bad_request_is_refused)
{
    const struct call_request good = {
        .url = "http://127.0.0.1:1/", .method = "GET", .timeout_ms = 1000, .reply_max_bytes = 10};
    struct call_request requests[12];
    char why[CALL_WHY_BYTES];
    struct call_reply reply;
    char long_path[200] = "/";
    size_t count = 0;

    memset(long_path + 1, 'a', sizeof long_path - 2);
    long_path[sizeof long_path - 1] = '\0';
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++)
        requests[i] = good;
    requests[count++].url = "";
    requests[count++].url = "ftp://127.0.0.1/";
    requests[count++].url = "file:///etc/hostname";
    requests[count++].url = "http://user:secret@127.0.0.1/";
    requests[count++].url = "no url";
    requests[count++].method = "GET / HTTP/1.1\r\nX: y\r\n";
    requests[count++].method = "";
    requests[count++].method = "get";
    requests[count++].timeout_ms = 0;
    requests[count++].reply_max_bytes = 0;
    requests[count++].unix_socket = "relative";
    requests[count++].unix_socket = long_path;
    for (size_t i = 0; i < count; i++) {
        ck_assert_msg(call_send(&requests[i], &reply, why) == -EINVAL, "case %zu", i);
        ck_assert_msg(!strstr(why, "secret"), "case %zu", i);
    }
}
END_TEST

START_TEST(a_query_is_in_no_sentence)
{
    struct call_request request = {.url = "http://127.0.0.1:1/a?token=secret",
                                   .method = "GET",
                                   .timeout_ms = 5000,
                                   .reply_max_bytes = 10};
    char why[CALL_WHY_BYTES];
    struct call_reply reply;

    ck_assert_int_eq(call_send(&request, &reply, why), -ECONNREFUSED);
    ck_assert_ptr_nonnull(strstr(why, "127.0.0.1:1"));
    ck_assert_ptr_null(strstr(why, "secret"));
}
END_TEST

/* Attack: a proxy in the environment reads what a command says to the daemon on its own machine. */
START_TEST(no_proxy_stands_between_a_machine_and_itself)
{
    const char *const here[] = {"http://127.0.0.1:1/", "http://127.1.2.3:1/", "http://[::1]:1/",
                                "http://localhost:1/", "http://LOCALHOST:1/"};
    char why[CALL_WHY_BYTES];
    struct call_reply reply;

    for (size_t i = 0; i < sizeof here / sizeof here[0]; i++) {
        struct call_request request = {
            .url = here[i], .method = "GET", .timeout_ms = 5000, .reply_max_bytes = 10};
        /* the name of a proxy that would fail otherwise: its host cannot be resolved */
        ck_assert_int_eq(setenv("http_proxy", "http://proxy.invalid:1", 1), 0);
        ck_assert_int_ne(call_send(&request, &reply, why), 0);
        ck_assert_msg(!strstr(why, "proxy") && !strstr(why, "resolved"), "%s: %s", here[i], why);
    }
    ck_assert_int_eq(call_one("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &reply, why), 0);
    call_reply_release(&reply);
}
END_TEST

/* ---- TLS: the certificate is for a name, signed by itself, and valid for a time ---- */

static X509 *make_certificate(EVP_PKEY *key, const char *name, long ends_in_s)
{
    X509 *certificate = X509_new();
    X509_NAME *subject = X509_get_subject_name(certificate);
    char names[64];

    ck_assert_int_lt(snprintf(names, sizeof names, "DNS:%s", name), (int)sizeof names);
    ck_assert_int_eq(X509_set_version(certificate, X509_VERSION_3), 1);
    ck_assert_int_eq(ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1), 1);
    ck_assert_ptr_nonnull(X509_gmtime_adj(X509_getm_notBefore(certificate), -7200));
    ck_assert_ptr_nonnull(X509_gmtime_adj(X509_getm_notAfter(certificate), ends_in_s));
    ck_assert_int_eq(X509_set_pubkey(certificate, key), 1);
    ck_assert_int_eq(X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                                                (const unsigned char *)name, -1, -1, 0),
                     1);
    ck_assert_int_eq(X509_set_issuer_name(certificate, subject), 1);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, names);
    ck_assert_ptr_nonnull(extension);
    ck_assert_int_eq(X509_add_ext(certificate, extension, -1), 1);
    X509_EXTENSION_free(extension);
    ck_assert_int_gt(X509_sign(certificate, key, EVP_sha256()), 0);
    return certificate;
}

/* Calls https://localhost/ at a server with such a certificate, which is trusted or not. */
static int call_tls(const char *name, long ends_in_s, bool trusted, char why[CALL_WHY_BYTES])
{
    const char *answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    char ca_file[128];
    struct server server;
    struct call_reply reply = {0};
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = make_certificate(key, name, ends_in_s);
    SSL_CTX *tls = SSL_CTX_new(TLS_server_method());

    ck_assert_int_eq(SSL_CTX_use_certificate(tls, certificate), 1);
    ck_assert_int_eq(SSL_CTX_use_PrivateKey(tls, key), 1);
    server_start_tls(&server, answer, strlen(answer), tls);
    ck_assert_int_lt(snprintf(ca_file, sizeof ca_file, "%s/ca", server.directory),
                     (int)sizeof ca_file);
    FILE *file = fopen(ca_file, "we");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(PEM_write_X509(file, certificate), 1);
    ck_assert_int_eq(fclose(file), 0);

    struct call_request request = get_from(&server);
    request.url = "https://localhost/";
    request.ca_file = trusted ? ca_file : NULL;
    int result = call_send(&request, &reply, why);
    if (result == 0)
        ck_assert_str_eq(reply.body, "ok");
    call_reply_release(&reply);
    (void)unlink(ca_file);
    server_stop(&server);
    SSL_CTX_free(tls);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return result;
}

START_TEST(a_trusted_certificate_of_the_right_name_is_accepted)
{
    char why[CALL_WHY_BYTES] = "";

    ck_assert_msg(call_tls("localhost", 3600, true, why) == 0, "%s", why);
}
END_TEST

/* Attack: whoever sits between a command and a server answers with a certificate of his own. */
START_TEST(a_certificate_that_proves_nothing_is_refused)
{
    char why[CALL_WHY_BYTES] = "";

    ck_assert_int_eq(call_tls("localhost", 3600, false, why), -EKEYREJECTED);
    ck_assert_ptr_nonnull(strstr(why, "TLS"));
    ck_assert_int_eq(call_tls("elsewhere.example", 3600, true, why), -EKEYREJECTED);
    ck_assert_int_eq(call_tls("localhost", -3600, true, why), -EKEYREJECTED);
}
END_TEST

START_TEST(test_urls_are_taken_apart)
{
    char why[CALL_WHY_BYTES] = "";
    struct call_url url;

    ck_assert_int_eq(call_split_url("https://host.example/a/b?c=d", &url, why), 0);
    ck_assert(url.https);
    ck_assert_str_eq(url.host, "host.example");
    ck_assert_str_eq(url.port, "443");
    ck_assert_str_eq(url.path, "/a/b?c=d");
    ck_assert_int_eq(call_split_url("http://[::1]:8080", &url, why), 0);
    ck_assert(!url.https);
    ck_assert_str_eq(url.host, "::1");
    ck_assert_str_eq(url.port, "8080");
    ck_assert_str_eq(url.path, "/");
}
END_TEST

START_TEST(test_what_is_no_url_is_not)
{
    static const char *const texts[] = {
        "",         "host.example",  "/path", "ftp://host/x", "https://user@host/x",
        "https://", "https://ho st/"};
    struct call_url url = {.port = "unt"};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char why[CALL_WHY_BYTES] = "";

        ck_assert_msg(call_split_url(texts[i], &url, why) == -EINVAL, "%s", texts[i]);
        ck_assert_str_ne(why, "");
        ck_assert_str_eq(url.port, "unt");
    }
}
END_TEST

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN); /* the servers here lose their clients on purpose */
    Suite *suite = suite_create("call");
    TCase *tests = tcase_create("call");

    tcase_add_test(tests, an_answer_comes_back_whole);
    tcase_add_test(tests, an_empty_answer_has_an_empty_body);
    tcase_add_test(tests, a_body_is_sent_as_it_is);
    tcase_add_test(tests, a_post_without_a_body_says_so);
    tcase_add_test(tests, a_redirect_is_not_followed);
    tcase_add_test(tests, headers_are_those_of_the_final_answer);
    tcase_add_test(tests, an_answer_beyond_the_limit_is_refused);
    tcase_add_test(tests, headers_beyond_the_limit_are_refused);
    tcase_add_test(tests, an_answer_cut_short_is_refused);
    tcase_add_test(tests, what_is_no_http_is_refused);
    tcase_add_test(tests, a_silent_server_is_a_time_out);
    tcase_add_test(tests, no_socket_no_listener_and_no_permission_are_told_apart);
    tcase_add_test(tests, a_bad_request_is_refused);
    tcase_add_test(tests, a_query_is_in_no_sentence);
    tcase_add_test(tests, no_proxy_stands_between_a_machine_and_itself);
    tcase_add_test(tests, a_trusted_certificate_of_the_right_name_is_accepted);
    tcase_add_test(tests, a_certificate_that_proves_nothing_is_refused);
    tcase_add_test(tests, test_urls_are_taken_apart);
    tcase_add_test(tests, test_what_is_no_url_is_not);
    suite_add_tcase(suite, tests);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
