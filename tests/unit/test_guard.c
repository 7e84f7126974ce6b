/*
 * The framing guard, case by case. A case is a head as a client would send it; it is laid out here
 * as libmicrohttpd leaves it, NULs over the separators, so that what hides between the parts hides
 * here too.
 */
#include "../../src/listener/http_private.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define BODY_MAX 65536

/* A head in the library's buffer. */
struct laid_out {
    char bytes[16384];
    char target[16384];
    struct http_header headers[HTTP_HEADERS_MAX + 1];
    struct http_head head;
};

/* Cuts a head as the library does: lines at LF with an optional CR before, the request line at its
 * first and last space, a field at its first colon, leading blanks of the value skipped. */
static void lay_out(const char *sent, size_t sent_bytes, struct laid_out *out)
{
    char *at, *end, *line_end;

    memset(out, 0, sizeof(*out));
    ck_assert_uint_lt(sent_bytes, sizeof(out->bytes));
    memcpy(out->bytes, sent, sent_bytes);
    at = out->bytes;
    end = out->bytes + sent_bytes;
    line_end = memchr(at, '\n', (size_t)(end - at));
    ck_assert_ptr_nonnull(line_end);
    out->head.method = at;
    *line_end = '\0';
    if (line_end > at && line_end[-1] == '\r')
        line_end[-1] = '\0';
    out->head.target_at = memchr(at, ' ', (size_t)(line_end - at));
    ck_assert_ptr_nonnull(out->head.target_at);
    at[out->head.target_at - at] = '\0';
    do
        out->head.target_at++;
    while (*out->head.target_at == ' ');
    for (char *last = line_end - 1;; last--)
        if (*last == ' ') {
            *last = '\0';
            out->head.version = last + 1;
            break;
        }
    strcpy(out->target, out->head.target_at);
    out->head.target = out->target;
    out->head.headers = out->headers;
    at = line_end + 1;
    while (at < end) {
        struct http_header *header = &out->headers[out->head.header_count];
        char *colon;

        line_end = memchr(at, '\n', (size_t)(end - at));
        ck_assert_ptr_nonnull(line_end);
        *line_end = '\0';
        if (line_end > at && line_end[-1] == '\r')
            line_end[-1] = '\0';
        if (*at == '\0' && line_end - at <= 1) {
            out->head.block_bytes = (size_t)(line_end + 1 - out->bytes);
            return;
        }
        colon = strchr(at, ':');
        ck_assert_ptr_nonnull(colon);
        *colon++ = '\0';
        while (*colon == ' ' || *colon == '\t')
            colon++;
        *header = (struct http_header){
            .name = at, .name_bytes = strlen(at), .value = colon, .value_bytes = strlen(colon)};
        if (++out->head.header_count > HTTP_HEADERS_MAX)
            return;
        at = line_end + 1;
    }
    ck_abort_msg("a head without its empty line");
}

struct guard_case {
    const char *why;
    const char *head;
    size_t bytes; /* 0: until the NUL */
    enum http_guard expect;
};

#define H              "Host: a\r\n"
#define POST(rest)     "POST /x HTTP/1.1\r\n" H rest "\r\n"
#define GET(rest)      "GET /x HTTP/1.1\r\n" H rest "\r\n"
#define LINE(line)     line "\r\n" H "\r\n"
#define WITH_NUL(text) text, sizeof(text) - 1

static const struct guard_case cases[] = {
    /* What clients and proxies really send. */
    {"plain post", POST("Content-Length: 5\r\n"), 0, HTTP_GUARD_PASS},
    {"post of nothing", POST("Content-Length: 0\r\n"), 0, HTTP_GUARD_PASS},
    {"post to the limit", POST("Content-Length: 65536\r\n"), 0, HTTP_GUARD_PASS},
    {"plain get", GET(""), 0, HTTP_GUARD_PASS},
    {"get of length 0", GET("Content-Length: 0\r\n"), 0, HTTP_GUARD_PASS},
    {"no blank after the colon", POST("Content-Length:5\r\n"), 0, HTTP_GUARD_PASS},
    {"blanks around a value", GET("A: \t b \r\n"), 0, HTTP_GUARD_PASS},
    {"an empty value", GET("A:\r\n"), 0, HTTP_GUARD_PASS},
    {"HTTP/1.0", "POST /x HTTP/1.0\r\n" H "Content-Length: 1\r\n\r\n", 0, HTTP_GUARD_PASS},
    {"a query", LINE("GET /x?a=1&b=%20 HTTP/1.1"), 0, HTTP_GUARD_PASS},
    {"a host with a port", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 0, HTTP_GUARD_PASS},
    {"a host as nginx names its upstream", "GET / HTTP/1.1\r\nHost: a_b\r\n\r\n", 0,
     HTTP_GUARD_PASS},
    {"100-continue", POST("Content-Length: 5\r\nExpect: 100-Continue\r\n"), 0, HTTP_GUARD_PASS},
    {"connection close", GET("Connection: close\r\n"), 0, HTTP_GUARD_PASS},
    {"connection of several", GET("Connection: keep-alive, Upgrade\r\n"), 0, HTTP_GUARD_PASS},
    {"bytes above ASCII in a value", GET("A: \xc3\xa4\r\n"), 0, HTTP_GUARD_PASS},
    {"another method", LINE("DELETE /x HTTP/1.1"), 0, HTTP_GUARD_PASS},
    {"a method nobody knows", LINE("VERSION-CONTROL /x HTTP/1.1"), 0, HTTP_GUARD_PASS},
    /* Two readings of where the body ends: the second request hides in the difference. */
    {"length and chunked", POST("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 0,
     HTTP_GUARD_FRAMING},
    {"chunked and length", POST("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), 0,
     HTTP_GUARD_FRAMING},
    {"chunked alone", POST("Transfer-Encoding: chunked\r\n"), 0, HTTP_GUARD_FRAMING},
    {"identity", POST("Transfer-Encoding: identity\r\nContent-Length: 5\r\n"), 0,
     HTTP_GUARD_FRAMING},
    {"chunked in odd case", POST("tRANSFER-eNCODING: xchunked\r\nContent-Length: 5\r\n"), 0,
     HTTP_GUARD_FRAMING},
    {"get that is chunked", GET("Transfer-Encoding: chunked\r\n"), 0, HTTP_GUARD_FRAMING},
    {"two lengths that differ", POST("Content-Length: 5\r\nContent-Length: 6\r\n"), 0,
     HTTP_GUARD_FRAMING},
    {"two lengths that agree", POST("Content-Length: 5\r\nContent-Length: 5\r\n"), 0,
     HTTP_GUARD_FRAMING},
    {"a list of lengths", POST("Content-Length: 5, 5\r\n"), 0, HTTP_GUARD_FRAMING},
    {"a signed length", POST("Content-Length: +5\r\n"), 0, HTTP_GUARD_FRAMING},
    {"a negative length", POST("Content-Length: -5\r\n"), 0, HTTP_GUARD_FRAMING},
    {"a length and a blank", POST("Content-Length: 5 \r\n"), 0, HTTP_GUARD_FRAMING},
    {"a length with a blank inside", POST("Content-Length: 5 0\r\n"), 0, HTTP_GUARD_FRAMING},
    {"a hexadecimal length", POST("Content-Length: 0x5\r\n"), 0, HTTP_GUARD_FRAMING},
    {"an empty length", POST("Content-Length: \r\n"), 0, HTTP_GUARD_FRAMING},
    {"a length of 20 digits", POST("Content-Length: 00000000000000000005\r\n"), 0,
     HTTP_GUARD_FRAMING},
    {"a length of 19 digits", POST("Content-Length: 0000000000000000005\r\n"), 0, HTTP_GUARD_PASS},
    {"the largest of 19 digits", POST("Content-Length: 9999999999999999999\r\n"), 0,
     HTTP_GUARD_TOO_LARGE},
    {"one over the limit", POST("Content-Length: 65537\r\n"), 0, HTTP_GUARD_TOO_LARGE},
    {"another method over the limit", "PUT /x HTTP/1.1\r\n" H "Content-Length: 65537\r\n\r\n", 0,
     HTTP_GUARD_TOO_LARGE},
    {"post without a length", POST(""), 0, HTTP_GUARD_NO_LENGTH},
    {"get with a body", GET("Content-Length: 5\r\n"), 0, HTTP_GUARD_FRAMING},
    {"head with a body", "HEAD /x HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\n", 0,
     HTTP_GUARD_FRAMING},
    {"get with a length of many zeros", GET("Content-Length: 00\r\n"), 0, HTTP_GUARD_FRAMING},
    {"connection drops the length", POST("Content-Length: 5\r\nConnection: Content-Length\r\n"), 0,
     HTTP_GUARD_FRAMING},
    {"connection drops the host", GET("Connection: close, host\r\n"), 0, HTTP_GUARD_FRAMING},
    {"connection drops the encoding", GET("Connection: x , transfer-encoding\t\r\n"), 0,
     HTTP_GUARD_FRAMING},
    {"connection is no list of tokens", GET("Connection: a b\r\n"), 0, HTTP_GUARD_FRAMING},
    /* A header that one side sees and the other does not. */
    {"a blank before the colon", POST("Content-Length : 5\r\n"), 0, HTTP_GUARD_FRAMING},
    {"a tab before the colon", POST("Content-Length\t: 5\r\n"), 0, HTTP_GUARD_FRAMING},
    {"a blank before the name", POST(" Content-Length: 5\r\n"), 0, HTTP_GUARD_FRAMING},
    {"a blank inside a name", GET("A B: c\r\n"), 0, HTTP_GUARD_FRAMING},
    {"no name", GET(": c\r\n"), 0, HTTP_GUARD_FRAMING},
    {"a control character in a name", GET("A\x01: c\r\n"), 0, HTTP_GUARD_FRAMING},
    {"a byte above ASCII in a name", GET("\xc4: c\r\n"), 0, HTTP_GUARD_FRAMING},
    {"a bracket in a name", GET("A[: c\r\n"), 0, HTTP_GUARD_FRAMING},
    {"a bare CR in a value", GET("A: b\rContent-Length: 5\r\n"), 0, HTTP_GUARD_FRAMING},
    {"a control character in a value", GET("A: \x02\r\n"), 0, HTTP_GUARD_FRAMING},
    {"DEL in a value", GET("A: \x7f\r\n"), 0, HTTP_GUARD_FRAMING},
    {"NUL in a value", WITH_NUL(GET("A: b\0c\r\n")), HTTP_GUARD_FRAMING},
    {"NUL after a length", WITH_NUL(POST("Content-Length: 5\0\r\n")), HTTP_GUARD_FRAMING},
    {"NUL at the start of a value", WITH_NUL(GET("A: \0b\r\n")), HTTP_GUARD_FRAMING},
    {"a bare LF after a field", GET("A: b\nContent-Length: 5\r\n"), 0, HTTP_GUARD_FRAMING},
    {"a bare LF after the last field", GET("A: b\n"), 0, HTTP_GUARD_FRAMING},
    {"a bare LF as the empty line", "GET /x HTTP/1.1\r\n" H "\n", 0, HTTP_GUARD_FRAMING},
    {"a bare LF after the request line", "GET /x HTTP/1.1\n" H "\r\n", 0, HTTP_GUARD_FRAMING},
    {"two CR before LF", GET("A: b\r\r\n"), 0, HTTP_GUARD_FRAMING},
    /* The request line. */
    {"no host", "GET /x HTTP/1.1\r\nA: b\r\n\r\n", 0, HTTP_GUARD_FRAMING},
    {"no header at all", "GET /x HTTP/1.1\r\n\r\n", 0, HTTP_GUARD_FRAMING},
    {"no host in 1.0", "GET /x HTTP/1.0\r\n\r\n", 0, HTTP_GUARD_FRAMING},
    {"two hosts", GET("Host: a\r\n"), 0, HTTP_GUARD_FRAMING},
    {"an empty host", "GET /x HTTP/1.1\r\nHost:\r\n\r\n", 0, HTTP_GUARD_FRAMING},
    {"a host with a blank", "GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", 0, HTTP_GUARD_FRAMING},
    {"a host with a user", "GET /x HTTP/1.1\r\nHost: u@a\r\n\r\n", 0, HTTP_GUARD_FRAMING},
    {"a host with a path", "GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n", 0, HTTP_GUARD_FRAMING},
    {"a list of hosts", "GET /x HTTP/1.1\r\nHost: a, b\r\n\r\n", 0, HTTP_GUARD_FRAMING},
    {"lower case", LINE("get /x HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"mixed case", LINE("Post /x HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"a control character in the method", LINE("GE\x01T /x HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"NUL in the method", WITH_NUL(LINE("GET\0X /x HTTP/1.1")), HTTP_GUARD_FRAMING},
    {"a long method", LINE("AAAAAAAAAAAAAAAAAAAAA /x HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"a method that begins with a dash", LINE("-GET /x HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"a tab after the method", LINE("GET\t/x /x HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"two blanks after the method", LINE("GET  /x HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"two blanks before the version", LINE("GET /x  HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"a blank in the target", LINE("GET /x y HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"a version in the target", LINE("GET /x HTTP/1.1 HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"an absolute target", LINE("GET http://a/x HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"an authority", LINE("CONNECT a:80 HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"an asterisk", LINE("OPTIONS * HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"a relative target", LINE("GET x HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"a fragment", LINE("GET /x#y HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"a backslash", LINE("GET /x\\y HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"a byte above ASCII", LINE("GET /\xc3\xa4 HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"a control character", LINE("GET /\x1f HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"DEL", LINE("GET /\x7f HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"NUL in the target", WITH_NUL(LINE("GET /x\0y HTTP/1.1")), HTTP_GUARD_FRAMING},
    {"half an escape", LINE("GET /%4 HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"an escape at the end", LINE("GET /% HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"no escape", LINE("GET /%zz HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"an escaped NUL", LINE("GET /?a=%00 HTTP/1.1"), 0, HTTP_GUARD_FRAMING},
    {"HTTP/0.9", LINE("GET /x HTTP/0.9"), 0, HTTP_GUARD_FRAMING},
    {"HTTP/1.2", LINE("GET /x HTTP/1.2"), 0, HTTP_GUARD_FRAMING},
    {"HTTP/2.0", LINE("GET /x HTTP/2.0"), 0, HTTP_GUARD_FRAMING},
    {"lower-case version", LINE("GET /x http/1.1"), 0, HTTP_GUARD_FRAMING},
    /* The client asks for what we do not know. */
    {"another expectation", POST("Content-Length: 5\r\nExpect: tea\r\n"), 0,
     HTTP_GUARD_EXPECTATION},
};

START_TEST(judges_each_case)
{
    const struct guard_case *c = &cases[_i];
    struct laid_out *out = malloc(sizeof(*out));
    enum http_method method = 0;
    size_t body_bytes = SIZE_MAX;
    enum http_guard verdict;

    ck_assert_ptr_nonnull(out);
    lay_out(c->head, c->bytes ? c->bytes : strlen(c->head), out);
    verdict = http_guard_judge(&out->head, BODY_MAX, &method, &body_bytes);
    ck_assert_msg(verdict == c->expect, "%s: verdict %d, not %d", c->why, (int)verdict,
                  (int)c->expect);
    /* A refusal leaves nothing that could be taken for a result. */
    ck_assert_int_eq(verdict == HTTP_GUARD_PASS, method != 0);
    ck_assert_int_eq(verdict == HTTP_GUARD_PASS, body_bytes != SIZE_MAX);
    free(out);
}
END_TEST

START_TEST(stores_method_and_length)
{
    static const struct {
        const char *head;
        enum http_method method;
        size_t bytes;
    } good[] = {{POST("Content-Length: 512\r\n"), HTTP_METHOD_POST, 512},
                {GET(""), HTTP_METHOD_GET, 0},
                {LINE("HEAD /x HTTP/1.1"), HTTP_METHOD_HEAD, 0},
                {LINE("GETS /x HTTP/1.1"), HTTP_METHOD_OTHER, 0}};
    struct laid_out *out = malloc(sizeof(*out));

    ck_assert_ptr_nonnull(out);
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        enum http_method method = 0;
        size_t bytes = SIZE_MAX;

        lay_out(good[i].head, strlen(good[i].head), out);
        ck_assert_int_eq(http_guard_judge(&out->head, BODY_MAX, &method, &bytes), HTTP_GUARD_PASS);
        ck_assert_int_eq(method, good[i].method);
        ck_assert_uint_eq(bytes, good[i].bytes);
    }
    free(out);
}
END_TEST

/* Attack: fill the server's memory and time with headers that frame nothing. */
START_TEST(caps_the_headers)
{
    struct laid_out *out = malloc(sizeof(*out));
    enum http_method method;
    size_t bytes;

    ck_assert_ptr_nonnull(out);
    for (int extra = HTTP_HEADERS_MAX - 1; extra <= HTTP_HEADERS_MAX; extra++) {
        char head[8192] = "GET / HTTP/1.1\r\n" H;

        for (int i = 0; i < extra; i++)
            strcat(head, "A: b\r\n");
        strcat(head, "\r\n");
        lay_out(head, strlen(head), out);
        ck_assert_int_eq(http_guard_judge(&out->head, BODY_MAX, &method, &bytes),
                         extra < HTTP_HEADERS_MAX ? HTTP_GUARD_PASS : HTTP_GUARD_FRAMING);
    }
    free(out);
}
END_TEST

START_TEST(caps_the_target)
{
    char target[HTTP_TARGET_MAX_BYTES + 2];

    memset(target, 'a', sizeof(target));
    target[0] = '/';
    target[HTTP_TARGET_MAX_BYTES + 1] = '\0';
    ck_assert(!http_guard_target(target));
    target[HTTP_TARGET_MAX_BYTES] = '\0';
    ck_assert(http_guard_target(target));
    ck_assert(!http_guard_target(""));
}
END_TEST

/* Attack: a folded line. The library joins it elsewhere in memory, so that the guard sees one
 * harmless field where a proxy saw two. */
START_TEST(finds_a_part_that_lies_elsewhere)
{
    struct laid_out *out = malloc(sizeof(*out));
    char moved[] = "b c";

    ck_assert_ptr_nonnull(out);
    lay_out(GET("A: b\r\nC: d\r\n"), strlen(GET("A: b\r\nC: d\r\n")), out);
    ck_assert(http_guard_tiles(&out->head));
    out->headers[1].value = moved;
    out->headers[1].value_bytes = 3;
    ck_assert(!http_guard_tiles(&out->head));
    free(out);
}
END_TEST

/* Every count of bytes but the right one leaves something unaccounted for. */
START_TEST(accounts_for_every_byte)
{
    struct laid_out *out = malloc(sizeof(*out));
    size_t right;

    ck_assert_ptr_nonnull(out);
    lay_out(GET("A: b\r\n"), strlen(GET("A: b\r\n")), out);
    right = out->head.block_bytes;
    for (size_t bytes = 0; bytes < right + 8; bytes++) {
        out->head.block_bytes = bytes;
        ck_assert_int_eq(http_guard_tiles(&out->head), bytes == right);
    }
    free(out);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guard");
    TCase *tests = tcase_create("guard");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tests, judges_each_case, 0, (int)(sizeof(cases) / sizeof(cases[0])));
    tcase_add_test(tests, stores_method_and_length);
    tcase_add_test(tests, caps_the_headers);
    tcase_add_test(tests, caps_the_target);
    tcase_add_test(tests, finds_a_part_that_lies_elsewhere);
    tcase_add_test(tests, accounts_for_every_byte);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
