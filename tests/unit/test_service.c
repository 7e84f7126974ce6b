#include "support/service.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATH_BYTES sizeof(((struct sockaddr_un *)0)->sun_path)

static char folder[64];

static void set_up(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/siwa-service-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(unsetenv("NOTIFY_SOCKET"), 0);
    ck_assert_int_eq(unsetenv("WATCHDOG_USEC"), 0);
    ck_assert_int_eq(unsetenv("WATCHDOG_PID"), 0);
}

static void tear_down(void)
{
    char path[96];

    (void)snprintf(path, sizeof path, "%s/notify", folder);
    (void)unlink(path);
    (void)rmdir(folder);
}

/* A datagram socket at name (abstract with `@`), as the service manager has one. */
static int manager_socket(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    ck_assert_int_ge(fd, 0);
    ck_assert_uint_le(strlen(name), sizeof address.sun_path);
    memcpy(address.sun_path, name, strlen(name));
    if (name[0] == '@')
        address.sun_path[0] = '\0';
    ck_assert_int_eq(bind(fd, (const struct sockaddr *)&address, bytes), 0);
    return fd;
}

static void notifies(const char *name)
{
    static const char state[] = "READY=1\nSTATUS=ready";
    int fd = manager_socket(name);
    char got[64] = "";

    ck_assert_int_eq(setenv("NOTIFY_SOCKET", name, 1), 0);
    ck_assert_int_eq(service_notify(state), 0);
    ck_assert_int_eq(recv(fd, got, sizeof got - 1, MSG_DONTWAIT), (ssize_t)strlen(state));
    ck_assert_str_eq(got, state);
    ck_assert_int_eq(recv(fd, got, sizeof got - 1, MSG_DONTWAIT), -1);
    ck_assert_int_eq(close(fd), 0);
}

START_TEST(test_notify_path)
{
    char path[96];

    (void)snprintf(path, sizeof path, "%s/notify", folder);
    notifies(path);
}
END_TEST

START_TEST(test_notify_abstract)
{
    char name[96];

    (void)snprintf(name, sizeof name, "@%s", folder);
    notifies(name);
}
END_TEST

START_TEST(test_notify_longest)
{
    char name[PATH_BYTES + 200];

    (void)snprintf(name, sizeof name, "@%s/%0200d", folder, 0);
    name[PATH_BYTES - 1] = '\0';
    notifies(name);
}
END_TEST

START_TEST(test_notify_without_manager)
{
    ck_assert_int_eq(service_notify("READY=1"), 0);
    ck_assert_int_eq(setenv("NOTIFY_SOCKET", "", 1), 0);
    ck_assert_int_eq(service_notify("READY=1"), 0);
}
END_TEST

static void notify_fails(const char *target, int wanted)
{
    ck_assert_int_eq(setenv("NOTIFY_SOCKET", target, 1), 0);
    ck_assert_int_eq(service_notify("READY=1"), wanted);
}

START_TEST(test_notify_errors)
{
    char name[PATH_BYTES + 1], path[96];

    notify_fails("relative", -EINVAL);
    notify_fails("vsock:2:1234", -EINVAL);
    notify_fails("@", -EINVAL);
    memset(name, 'x', sizeof name - 1);
    name[0] = '/';
    name[sizeof name - 1] = '\0';
    notify_fails(name, -EINVAL);
    (void)snprintf(path, sizeof path, "%s/nobody", folder);
    notify_fails(path, -ENOENT);
}
END_TEST

static void watchdog_is(const char *usec, const char *pid, int64_t wanted)
{
    ck_assert_int_eq(usec != NULL ? setenv("WATCHDOG_USEC", usec, 1) : unsetenv("WATCHDOG_USEC"),
                     0);
    ck_assert_int_eq(pid != NULL ? setenv("WATCHDOG_PID", pid, 1) : unsetenv("WATCHDOG_PID"), 0);
    ck_assert_int_eq(service_watchdog_ms(), wanted);
}

START_TEST(test_watchdog)
{
    char me[24], other[24];

    (void)snprintf(me, sizeof me, "%d", getpid());
    (void)snprintf(other, sizeof other, "%d", getppid());
    watchdog_is(NULL, NULL, 0);
    watchdog_is("30000000", NULL, 30000);
    watchdog_is("30000000", me, 30000);
    watchdog_is("30000000", other, 0); /* children inherit the variables */
    watchdog_is("30000000", "", 0);
    watchdog_is("1", me, 1);
    watchdog_is("0", me, 0);
    watchdog_is("", me, 0);
    watchdog_is("-5", me, 0);
    watchdog_is("5s", me, 0);
    watchdog_is("99999999999999999999999999", me, 0);
}
END_TEST

/* Passed sockets. Each case runs in a child of its own, since what was passed is taken over once,
 * and since it needs the descriptors from 3 on. */
enum passed { LISTENER, CONNECTED, DATAGRAM, PLAIN_FILE };

#define FD_ASIDE 40 /* from here on, so that the numbers from 3 on are free to be filled */

static int make_fd(enum passed kind)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int pair[2] = {-1, -1};
    int fd;

    switch (kind) {
    case LISTENER:
        fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || bind(fd, (const struct sockaddr *)&any, sizeof any) != 0 ||
            listen(fd, 1) != 0)
            _exit(100);
        return fd;
    case CONNECTED:
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
            _exit(100);
        return pair[0];
    case DATAGRAM:
        return socket(AF_INET, SOCK_DGRAM, 0);
    case PLAIN_FILE:
        break;
    }
    return open("/dev/null", O_RDONLY);
}

/* Puts count descriptors at 3, 4, ... as the service manager does, and says so. */
static void pass(const enum passed *kinds, int count, const char *names)
{
    int aside[4];
    char text[24];

    for (int i = 0; i < count; i++) {
        int fd = make_fd(kinds[i]);

        aside[i] = fcntl(fd, F_DUPFD, FD_ASIDE);
        (void)close(fd);
    }
    for (int i = 0; i < count; i++) {
        if (dup2(aside[i], 3 + i) != 3 + i)
            _exit(100);
        (void)close(aside[i]);
    }
    (void)snprintf(text, sizeof text, "%d", count);
    (void)setenv("LISTEN_FDS", text, 1);
    (void)snprintf(text, sizeof text, "%d", getpid());
    (void)setenv("LISTEN_PID", text, 1);
    if (names != NULL)
        (void)setenv("LISTEN_FDNAMES", names, 1);
    else
        (void)unsetenv("LISTEN_FDNAMES");
}

#define HOLDS(condition) \
    do { \
        if (!(condition)) { \
            (void)fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
            _exit(1); \
        } \
    } while (0)

static void in_child(void (*body)(void))
{
    pid_t child = fork();
    int status = 0;

    ck_assert_int_ge(child, 0);
    if (child == 0) {
        body();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}

static void child_by_name(void)
{
    pass((const enum passed[]){LISTENER, LISTENER, LISTENER}, 3, "monitor:notify:something");
    HOLDS(service_listen_fd("notify") == 4);
    HOLDS(service_listen_fd("monitor") == 3);
    HOLDS(service_listen_fd("notify") == 4);
    HOLDS(service_listen_fd("control") == -ENOENT);
    HOLDS(strcmp(service_listen_name(0), "monitor") == 0);
    HOLDS(strcmp(service_listen_name(2), "something") == 0);
    HOLDS(service_listen_name(3) == NULL);
    for (int fd = 3; fd < 6; fd++)
        HOLDS((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    HOLDS(getenv("LISTEN_FDS") == NULL && getenv("LISTEN_PID") == NULL);
    HOLDS(getenv("LISTEN_FDNAMES") == NULL);
}

START_TEST(test_listen_by_name)
{
    in_child(child_by_name);
}
END_TEST

static void child_single_without_names(void)
{
    pass((const enum passed[]){LISTENER}, 1, NULL);
    HOLDS(service_listen_fd("monitor") == -ENOENT);
    HOLDS(service_listen_fd("notify") == 3);
}

static void child_several_without_names(void)
{
    pass((const enum passed[]){LISTENER, LISTENER}, 2, NULL);
    HOLDS(service_listen_fd("notify") == -ENOENT);
    HOLDS(service_listen_name(1) != NULL && *service_listen_name(1) == '\0');
}

static void child_fewer_names_than_sockets(void)
{
    pass((const enum passed[]){LISTENER, LISTENER}, 2, "notify");
    HOLDS(service_listen_fd("notify") == 3);
    HOLDS(service_listen_name(1) != NULL && *service_listen_name(1) == '\0');
}

START_TEST(test_listen_without_names)
{
    in_child(child_single_without_names);
    in_child(child_several_without_names);
    in_child(child_fewer_names_than_sockets);
}
END_TEST

static void child_name_twice(void)
{
    pass((const enum passed[]){LISTENER, LISTENER}, 2, "notify:notify");
    HOLDS(service_listen_fd("notify") == -ENOTUNIQ);
}

START_TEST(test_listen_name_twice)
{
    in_child(child_name_twice);
}
END_TEST

static void child_not_listening(void)
{
    pass((const enum passed[]){CONNECTED, DATAGRAM, PLAIN_FILE}, 3, "a:b:c");
    HOLDS(service_listen_fd("a") == -EINVAL);
    HOLDS(service_listen_fd("b") == -EINVAL);
    HOLDS(service_listen_fd("c") == -EINVAL);
}

START_TEST(test_listen_not_a_listening_stream_socket)
{
    in_child(child_not_listening);
}
END_TEST

static void child_of_another_process(void)
{
    pass((const enum passed[]){LISTENER}, 1, "notify");
    (void)setenv("LISTEN_PID", "1", 1);
    HOLDS(service_listen_fd("notify") == -ENOENT);
    HOLDS((fcntl(3, F_GETFD) & FD_CLOEXEC) == 0); /* not ours: not touched */
}

static void child_without_pid(void)
{
    pass((const enum passed[]){LISTENER}, 1, "notify");
    (void)unsetenv("LISTEN_PID");
    HOLDS(service_listen_fd("notify") == -ENOENT);
}

static void child_too_many(void)
{
    pass((const enum passed[]){LISTENER}, 1, "notify");
    (void)setenv("LISTEN_FDS", "17", 1);
    HOLDS(service_listen_fd("notify") == -ENOENT);
}

static void child_count_malformed(void)
{
    pass((const enum passed[]){LISTENER}, 1, "notify");
    (void)setenv("LISTEN_FDS", "1x", 1);
    HOLDS(service_listen_fd("notify") == -ENOENT);
}

START_TEST(test_listen_variables_not_for_us)
{
    in_child(child_of_another_process);
    in_child(child_without_pid);
    in_child(child_too_many);
    in_child(child_count_malformed);
}
END_TEST

static void child_nothing_passed(void)
{
    (void)unsetenv("LISTEN_FDS");
    HOLDS(service_listen_fd("notify") == -ENOENT);
    HOLDS(service_listen_name(0) == NULL);
}

START_TEST(test_listen_nothing_passed)
{
    in_child(child_nothing_passed);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("service");
    TCase *manager = tcase_create("manager");
    TCase *listening = tcase_create("listen");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(manager, set_up, tear_down);
    tcase_add_test(manager, test_notify_path);
    tcase_add_test(manager, test_notify_abstract);
    tcase_add_test(manager, test_notify_longest);
    tcase_add_test(manager, test_notify_without_manager);
    tcase_add_test(manager, test_notify_errors);
    tcase_add_test(manager, test_watchdog);
    tcase_add_test(listening, test_listen_by_name);
    tcase_add_test(listening, test_listen_without_names);
    tcase_add_test(listening, test_listen_name_twice);
    tcase_add_test(listening, test_listen_not_a_listening_stream_socket);
    tcase_add_test(listening, test_listen_variables_not_for_us);
    tcase_add_test(listening, test_listen_nothing_passed);
    suite_add_tcase(suite, manager);
    suite_add_tcase(suite, listening);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
