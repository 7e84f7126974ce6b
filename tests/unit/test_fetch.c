/* The fetch against a key server that does everything wrong, over real TLS on loopback, and against
 * sockets and files that are no better. */
#include "keys/fetch.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "hostile_cases.h"
#include "key_server.h"
#include "support/clock.h"

static struct key_server server;
static char *good_text;

static char *read_good(void)
{
    char path[128], *text = calloc(1, FETCH_TEXT_MAX_BYTES);
    snprintf(path, sizeof(path), "%s/good.json", server.folder);
    FILE *in = fopen(path, "r");
    KEY_SERVER_NEEDS(in != NULL && text != NULL);
    size_t bytes = fread(text, 1, FETCH_TEXT_MAX_BYTES - 1, in);
    text[bytes] = '\0';
    fclose(in);
    return text;
}

/* One attempt; what it gave is compared and released here. */
static void assert_result(const struct fetch_source *source, enum fetch_result result,
                          const char *why_part, const char *text_expected)
{
    char *text = NULL, why[FETCH_WHY_BYTES] = "";
    size_t bytes = 77;
    enum fetch_result got = fetch_keys_text(source, &text, &bytes, why);
    ck_assert_msg(got == result, "%s instead of %s: %s", fetch_result_label(got),
                  fetch_result_label(result), why);
    if (result == FETCH_RESULT_OK) {
        ck_assert_int_eq(text[bytes], '\0');
        if (text_expected != NULL)
            ck_assert_str_eq(text, text_expected);
        free(text);
        return;
    }
    ck_assert_ptr_null(text);
    ck_assert_uint_eq(bytes, 77);
    ck_assert_msg(strstr(why, why_part) != NULL, "\"%s\" does not say \"%s\"", why, why_part);
    for (const char *c = why; *c != '\0'; c++)
        ck_assert_msg(*c >= 0x20 && *c <= 0x7e, "not printable: %s", why);
}

static struct fetch_source url_source(char url[128], const char *port, const char *path)
{
    snprintf(url, 128, "https://127.0.0.1:%u%s", key_server_port(&server, port), path);
    return (struct fetch_source){.kind = CONFIG_KEYS_URL,
                                 .url = url,
                                 .ca_file = server.ca_file,
                                 .proxy = "",
                                 .timeout_ms = HOSTILE_PATIENT_MS};
}

/* A server that never ends its answer must have been reached first, which may take a while: the
 * limit doubles until it was. */
static void assert_never_ends(struct fetch_source source, const char *why_part)
{
    enum fetch_result result = FETCH_RESULT_UNREACHABLE;
    char why[FETCH_WHY_BYTES] = "";

    for (source.timeout_ms = HOSTILE_HASTY_MS;
         result == FETCH_RESULT_UNREACHABLE && source.timeout_ms < HOSTILE_PATIENT_MS / 2;
         source.timeout_ms *= 2) {
        char *text = NULL;
        size_t bytes = 0;

        result = fetch_keys_text(&source, &text, &bytes, why);
        ck_assert_ptr_null(text);
    }
    ck_assert_msg(result == FETCH_RESULT_TIMEOUT, "%s: %s", fetch_result_label(result), why);
    ck_assert_msg(strstr(why, why_part) != NULL, "\"%s\" does not say \"%s\"", why, why_part);
}

START_TEST(hostile_server)
{
    const struct hostile_case *hostile = &hostile_cases[_i];
    char url[128];
    if (key_server_port(&server, hostile->port) == 0) {
        printf("SKIP hostile_server: this OpenSSL cannot serve %s\n", hostile->port);
        return;
    }
    struct fetch_source source = url_source(url, hostile->port, hostile->path);
    if (hostile->result == FETCH_RESULT_TIMEOUT) {
        assert_never_ends(source, hostile->why);
        return;
    }
    if (hostile_never_ends(hostile))
        source.timeout_ms = HOSTILE_HASTY_MS;
    /* What arrives whole is handed over; that it is no set is seen later. */
    assert_result(&source,
                  hostile->result == FETCH_RESULT_BAD_SET ? FETCH_RESULT_OK : hostile->result,
                  hostile->why, NULL);
}
END_TEST

START_TEST(good_server)
{
    static const char *const paths[] = {"/good", "/unannounced", "/chunked"};
    char url[128];
    struct fetch_source source = url_source(url, "good", paths[_i]);
    source.timeout_ms = 0;
    assert_result(&source, FETCH_RESULT_OK, "", good_text);
}
END_TEST

/* The default is five seconds in all: of a server that never answers and one that drips. */
START_TEST(five_seconds_in_all)
{
    static const char *const paths[] = {"/hang", "/drip"};
    char url[128];
    struct fetch_source source = url_source(url, "good", paths[_i]);
    source.timeout_ms = 0;
    int64_t begin_ms = clock_monotonic_ms();
    assert_result(&source, FETCH_RESULT_TIMEOUT, "time", NULL);
    int64_t took_ms = clock_monotonic_ms() - begin_ms;
    ck_assert_int_ge(took_ms, FETCH_TIMEOUT_MS - 100);
    ck_assert_int_lt(took_ms, 4 * FETCH_TIMEOUT_MS); /* the servers keep it up for a minute */
}
END_TEST

/* With the authority not named, the system's are asked, and they do not know this one. */
START_TEST(the_systems_authorities_are_the_default)
{
    char url[128];
    struct fetch_source source = url_source(url, "good", "/good");
    source.timeout_ms = 30000; /* they are many, and a sanitised build reads them slowly */
    source.ca_file = "";
    assert_result(&source, FETCH_RESULT_TLS, "certificate", NULL);
    source.ca_file = NULL;
    assert_result(&source, FETCH_RESULT_TLS, "certificate", NULL);
    source.ca_file = "/nonexistent/ca.pem";
    assert_result(&source, FETCH_RESULT_TLS, "", NULL);
}
END_TEST

START_TEST(only_https_urls)
{
    static const struct {
        const char *url;
        enum fetch_result result;
        const char *why;
    } cases[] = {
        {"http://127.0.0.1/keys", FETCH_RESULT_TLS, "not https"},
        {"HTTP://127.0.0.1/keys", FETCH_RESULT_TLS, "not https"},
        {"file:///etc/passwd", FETCH_RESULT_TLS, "not https"},
        {"ftp://127.0.0.1/keys", FETCH_RESULT_TLS, "not https"},
        {"gopher://127.0.0.1/", FETCH_RESULT_TLS, "not https"},
        {"127.0.0.1/keys", FETCH_RESULT_UNREACHABLE, "not a URL"},
        {"", FETCH_RESULT_UNREACHABLE, "not a URL"},
        {"https://", FETCH_RESULT_UNREACHABLE, "not a URL"},
        {"https://host name/keys", FETCH_RESULT_UNREACHABLE, "not a URL"},
        {"https://127.0.0.1\r\nX: y/", FETCH_RESULT_UNREACHABLE, "not a URL"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fetch_source source = {
            .kind = CONFIG_KEYS_URL, .url = cases[i].url, .ca_file = "", .proxy = ""};
        assert_result(&source, cases[i].result, cases[i].why, NULL);
    }
}
END_TEST

/* A password in the URL is for the server alone. */
START_TEST(credentials_are_not_repeated)
{
    char url[160], why[FETCH_WHY_BYTES], *text;
    size_t bytes;
    snprintf(url, sizeof(url), "https://user:Geheim7@127.0.0.1:%u/good",
             key_server_port(&server, "down"));
    struct fetch_source source = {
        .kind = CONFIG_KEYS_URL, .url = url, .ca_file = "", .proxy = "", .timeout_ms = 500};
    ck_assert_int_eq(fetch_keys_text(&source, &text, &bytes, why), FETCH_RESULT_UNREACHABLE);
    ck_assert_ptr_null(strstr(why, "Geheim7"));

    snprintf(url, sizeof(url), "http://user:Geheim7@127.0.0.1:%u",
             key_server_port(&server, "down"));
    source.url = "https://127.0.0.1:1/good";
    source.proxy = url;
    ck_assert_int_eq(fetch_keys_text(&source, &text, &bytes, why), FETCH_RESULT_UNREACHABLE);
    ck_assert_ptr_null(strstr(why, "Geheim7"));
}
END_TEST

/* The environment belongs to whoever starts the daemon's shell; a proxy is used where the
 * configuration says so and nowhere else. */
START_TEST(the_environment_counts_only_when_asked)
{
    char url[128], proxy[64];
    struct fetch_source source = url_source(url, "good", "/good");
    snprintf(proxy, sizeof(proxy), "http://127.0.0.1:%u", key_server_port(&server, "down"));
    setenv("https_proxy", proxy, 1);
    setenv("ALL_PROXY", proxy, 1);
    assert_result(&source, FETCH_RESULT_OK, "", good_text);
    source.proxy = NULL;
    assert_result(&source, FETCH_RESULT_OK, "", good_text);
    source.proxy = "environment";
    assert_result(&source, FETCH_RESULT_UNREACHABLE, "", NULL);
    /* And no_proxy cannot take a configured proxy away. */
    setenv("no_proxy", "*", 1);
    assert_result(&source, FETCH_RESULT_OK, "", good_text);
    source.proxy = proxy;
    assert_result(&source, FETCH_RESULT_UNREACHABLE, "", NULL);
}
END_TEST

START_TEST(home_files_do_not_count)
{
    char url[128], name[160];
    struct fetch_source source = url_source(url, "good", "/good");
    source.ca_file = "";
    setenv("HOME", server.folder, 1);
    setenv("CURL_HOME", server.folder, 1);
    setenv("CURL_CA_BUNDLE", server.ca_file, 1);
    snprintf(name, sizeof(name), "%s/.curlrc", server.folder);
    FILE *out = fopen(name, "w");
    ck_assert_ptr_nonnull(out);
    fputs("insecure\n", out);
    fclose(out);
    assert_result(&source, FETCH_RESULT_TLS, "certificate", NULL);
}
END_TEST

static void *stop_soon(void *context)
{
    const uint64_t one = 1;
    poll(NULL, 0, 100);
    ck_assert_int_eq(write(*(int *)context, &one, sizeof(one)), sizeof(one));
    return NULL;
}

/* Runs an attempt that would take a minute and stops it. */
static void assert_stoppable(struct fetch_source source)
{
    char *text = NULL, why[FETCH_WHY_BYTES] = "";
    size_t bytes;
    pthread_t thread;
    int stop_fd = eventfd(0, EFD_CLOEXEC);
    ck_assert_int_ge(stop_fd, 0);
    source.timeout_ms = 60000;
    ck_assert_int_eq(pthread_create(&thread, NULL, stop_soon, &stop_fd), 0);
    int64_t begin_ms = clock_monotonic_ms();
    ck_assert_int_eq(fetch_keys_text_until(&source, stop_fd, &text, &bytes, why),
                     FETCH_RESULT_INTERNAL);
    ck_assert_int_lt(clock_monotonic_ms() - begin_ms, 20000);
    ck_assert_ptr_nonnull(strstr(why, "stopped"));
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    close(stop_fd);
}

START_TEST(a_transfer_can_be_stopped)
{
    static const struct {
        const char *port, *path;
    } cases[] = {{"silent", "/good"}, {"good", "/hang"}, {"good", "/drip"}};
    char url[128];
    assert_stoppable(url_source(url, cases[_i].port, cases[_i].path));
}
END_TEST

START_TEST(labels)
{
    ck_assert_str_eq(fetch_result_label(FETCH_RESULT_OK), "ok");
    ck_assert_str_eq(fetch_result_label(FETCH_RESULT_BAD_SET), "bad_set");
    ck_assert_str_eq(fetch_result_label(FETCH_RESULT_COUNT), "internal");
    ck_assert_int_eq(FETCH_RESULT_INTERNAL, 0);
}
END_TEST

/* ------------------------------------------------------------------------------- unix sockets */

static char socket_path[96];

static int listen_unix(int backlog)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(socket_path, sizeof(socket_path), "%s/fetch-%d.sock", server.folder, getpid());
    strcpy(address.sun_path, socket_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    ck_assert_int_eq(listen(fd, backlog), 0);
    return fd;
}

static struct fetch_source unix_source(void)
{
    return (struct fetch_source){
        .kind = CONFIG_KEYS_UNIX, .path = socket_path, .timeout_ms = HOSTILE_PATIENT_MS};
}

struct helper {
    int listen_fd;
    const char *answer;
    size_t bytes, repeat;
    bool stay; /* does not close */
};

static void *answer_one(void *context)
{
    const struct helper *helper = context;
    int fd = accept(helper->listen_fd, NULL, NULL);
    for (size_t i = 0; i < helper->repeat && fd >= 0; i++)
        if (send(fd, helper->answer, helper->bytes, MSG_NOSIGNAL) < 0)
            break;
    char byte;
    if (helper->stay)
        (void)!recv(fd, &byte, 1, 0); /* until the other side leaves */
    close(fd);
    return NULL;
}

static void assert_answer(struct helper helper, enum fetch_result result, const char *why,
                          const char *text)
{
    pthread_t thread;
    helper.listen_fd = listen_unix(4);
    ck_assert_int_eq(pthread_create(&thread, NULL, answer_one, &helper), 0);
    struct fetch_source source = unix_source();
    if (result == FETCH_RESULT_TIMEOUT)
        source.timeout_ms = HOSTILE_HASTY_MS;
    assert_result(&source, result, why, text);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    close(helper.listen_fd);
    unlink(socket_path);
}

#define ANSWER(text) .answer = (text), .bytes = strlen(text), .repeat = 1

START_TEST(the_fetch_unit_answers)
{
    assert_answer((struct helper){ANSWER(good_text)}, FETCH_RESULT_OK, "", good_text);
    assert_answer((struct helper){ANSWER("{\"error\": \"tls: expired\"}")}, FETCH_RESULT_HELPER,
                  "the fetch unit says: tls: expired", NULL);
    assert_answer((struct helper){ANSWER("")}, FETCH_RESULT_CUT_SHORT, "without an answer", NULL);
    /* No error sentence: what it is, is judged as a set. */
    assert_answer((struct helper){ANSWER("{\"error\": 7}")}, FETCH_RESULT_OK, "", NULL);
    assert_answer((struct helper){ANSWER("[1]")}, FETCH_RESULT_OK, "", NULL);
}
END_TEST

/* The sentence ends in a log line: it may forge none. */
START_TEST(the_fetch_units_sentence_is_tamed)
{
    char long_answer[2000] = "{\"error\": \"a\\nlevel=error\\u001b[2J \\u00e4";
    size_t bytes = strlen(long_answer);
    memset(long_answer + bytes, 'x', 1500);
    strcpy(long_answer + bytes + 1500, "\"}");
    assert_answer((struct helper){ANSWER(long_answer)}, FETCH_RESULT_HELPER,
                  "the fetch unit says: a?level=error?[2J ??xxx", NULL);
}
END_TEST

START_TEST(the_fetch_unit_misbehaves)
{
    assert_answer((struct helper){ANSWER("{\"keys\""), .stay = true}, FETCH_RESULT_TIMEOUT,
                  "did not answer in time", NULL);
    assert_answer((struct helper){.stay = true}, FETCH_RESULT_TIMEOUT, "did not answer in time",
                  NULL);
    assert_answer((struct helper){.answer = good_text, .bytes = strlen(good_text), .repeat = 20000},
                  FETCH_RESULT_TOO_LARGE, "more than", NULL);
}
END_TEST

START_TEST(no_fetch_unit)
{
    struct fetch_source source = unix_source();
    source.path = "/nonexistent/keys.sock";
    assert_result(&source, FETCH_RESULT_UNREACHABLE, "cannot connect", NULL);
    char long_path[200];
    memset(long_path, 'a', sizeof(long_path));
    long_path[0] = '/';
    long_path[sizeof(long_path) - 1] = '\0';
    source.path = long_path;
    assert_result(&source, FETCH_RESULT_UNREACHABLE, "too long", NULL);
}
END_TEST

/* Nobody accepts and the backlog is full: connect cannot even be waited for. */
START_TEST(a_full_backlog_is_waited_for_no_longer_than_the_rest)
{
    int listen_fd = listen_unix(0), filler[4];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, socket_path);
    for (size_t i = 0; i < 4; i++) {
        filler[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        (void)connect(filler[i], (struct sockaddr *)&address, sizeof(address));
    }
    struct fetch_source source = unix_source();
    source.timeout_ms = HOSTILE_HASTY_MS;
    assert_result(&source, FETCH_RESULT_UNREACHABLE, "cannot connect", NULL);
    assert_stoppable(source);
    for (size_t i = 0; i < 4; i++)
        close(filler[i]);
    close(listen_fd);
    unlink(socket_path);
}
END_TEST

START_TEST(a_silent_fetch_unit_can_be_left)
{
    int listen_fd = listen_unix(4);
    assert_stoppable(unix_source());
    close(listen_fd);
    unlink(socket_path);
}
END_TEST

/* -------------------------------------------------------------------------------------- files */

START_TEST(files)
{
    char path[128];
    struct fetch_source source = {.kind = CONFIG_KEYS_FILE, .path = path};
    snprintf(path, sizeof(path), "%s/good.json", server.folder);
    assert_result(&source, FETCH_RESULT_OK, "", good_text);

    char link_path[160];
    snprintf(link_path, sizeof(link_path), "%s/link-%d", server.folder, getpid());
    ck_assert_int_eq(symlink(path, link_path), 0);
    source.path = link_path;
    assert_result(&source, FETCH_RESULT_OK, "", good_text);

    source.path = "/nonexistent/keys";
    assert_result(&source, FETCH_RESULT_UNREACHABLE, "No such file", NULL);
    source.path = server.folder;
    assert_result(&source, FETCH_RESULT_UNREACHABLE, "not a regular file", NULL);
    source.path = "/dev/zero";
    assert_result(&source, FETCH_RESULT_UNREACHABLE, "not a regular file", NULL);

    snprintf(link_path, sizeof(link_path), "%s/fifo-%d", server.folder, getpid());
    ck_assert_int_eq(mkfifo(link_path, 0600), 0);
    source.path = link_path;
    assert_result(&source, FETCH_RESULT_UNREACHABLE, "not a regular file", NULL);

    snprintf(link_path, sizeof(link_path), "%s/large-%d", server.folder, getpid());
    FILE *out = fopen(link_path, "w");
    ck_assert_ptr_nonnull(out);
    ck_assert_int_eq(ftruncate(fileno(out), FETCH_TEXT_MAX_BYTES), 0);
    char *text = NULL, why[FETCH_WHY_BYTES] = "";
    size_t bytes = 0;
    ck_assert_int_eq(fetch_keys_text(&source, &text, &bytes, why), FETCH_RESULT_OK);
    ck_assert_uint_eq(bytes, FETCH_TEXT_MAX_BYTES); /* exactly full is not too large */
    free(text);
    ck_assert_int_eq(ftruncate(fileno(out), FETCH_TEXT_MAX_BYTES + 1), 0);
    assert_result(&source, FETCH_RESULT_TOO_LARGE, "larger than", NULL);
    fclose(out);
}
END_TEST

int main(void)
{
    server = key_server_start();
    good_text = read_good();
    KEY_SERVER_NEEDS(fetch_init() == 0);

    Suite *suite = suite_create("fetch");
    TCase *url = tcase_create("url"), *local = tcase_create("local");
    tcase_set_timeout(url, 60);
    tcase_add_loop_test(url, hostile_server, 0, HOSTILE_CASE_COUNT);
    tcase_add_loop_test(url, good_server, 0, 3);
    tcase_add_loop_test(url, five_seconds_in_all, 0, 2);
    tcase_add_test(url, the_systems_authorities_are_the_default);
    tcase_add_test(url, only_https_urls);
    tcase_add_test(url, credentials_are_not_repeated);
    tcase_add_test(url, the_environment_counts_only_when_asked);
    tcase_add_test(url, home_files_do_not_count);
    tcase_add_loop_test(url, a_transfer_can_be_stopped, 0, 3);
    tcase_add_test(url, labels);
    suite_add_tcase(suite, url);

    tcase_set_timeout(local, 60);
    tcase_add_test(local, the_fetch_unit_answers);
    tcase_add_test(local, the_fetch_units_sentence_is_tamed);
    tcase_add_test(local, the_fetch_unit_misbehaves);
    tcase_add_test(local, no_fetch_unit);
    tcase_add_test(local, a_full_backlog_is_waited_for_no_longer_than_the_rest);
    tcase_add_test(local, a_silent_fetch_unit_can_be_left);
    tcase_add_test(local, files);
    suite_add_tcase(suite, local);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    free(good_text);
    key_server_stop(&server);
    return failed != 0;
}
