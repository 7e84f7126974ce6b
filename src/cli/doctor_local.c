/* The part of doctor that looks at this machine: database, sockets, clock, the service's unit. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dispatcher/outbox.h"
#include "doctor.h"
#include "listener/health.h"
#include "support/clock.h"
#include "verifier/judge.h"

#define MIB 1048576.0

extern char **environ;

/* ---- the database ---- */

static void look_at_mode(struct doctor *doctor, const struct stat *file)
{
    const char *path = doctor->config->database;
    char folder[PATH_MAX];
    struct stat around;
    const char *slash = strrchr(path, '/');

    (void)snprintf(folder, sizeof folder, "%.*s", (int)(slash ? slash - path + 1 : 1),
                   slash ? path : ".");
    if ((file->st_mode & 07) != 0)
        doctor_tell(doctor, "database.mode", DOCTOR_FAIL, "chmod o= on it and its -wal and -shm",
                    "every user may read %s (mode %04o): it holds what people entrusted", path,
                    file->st_mode & 07777U);
    else if ((file->st_mode & 020) != 0)
        doctor_tell(doctor, "database.mode", DOCTOR_WARN, "chmod g-w on it",
                    "the group may write %s: only the daemon writes", path);
    else if (stat(folder, &around) == 0 && around.st_uid != file->st_uid)
        doctor_tell(doctor, "database.mode", DOCTOR_FAIL,
                    "chown the folder and what is in it to the user of the daemon",
                    "%s belongs to user %u, its folder to %u", path, file->st_uid, around.st_uid);
    else
        doctor_tell(doctor, "database.mode", DOCTOR_OK, NULL, "%s, mode %04o, user %u, group %u",
                    path, file->st_mode & 07777U, file->st_uid, file->st_gid);
}

static void look_at_content(struct doctor *doctor)
{
    struct outbox_reader *reader = NULL;
    char why[OUTBOX_WHY_BYTES] = "";
    int error = outbox_reader_open(doctor->config->database, &reader, why);

    if (error == 0)
        error = outbox_reader_quick_check(reader, NULL, why);
    outbox_reader_close(reader);
    if (error == 0)
        doctor_tell(doctor, "database.content", DOCTOR_OK, NULL, "quick_check finds it sound");
    else if (error == -EACCES ||
             (error == -EIO && geteuid() != 0 && access(doctor->config->database, R_OK) < 0))
        doctor_tell(doctor, "database.content", DOCTOR_SKIP, "run as root", "%s", why);
    else
        doctor_tell(doctor, "database.content", DOCTOR_FAIL,
                    "read the sentence; a damaged file is restored from a backup", "%s", why);
}

static void look_at_wal(struct doctor *doctor)
{
    char path[PATH_MAX];
    struct stat file;

    (void)snprintf(path, sizeof path, "%s-wal", doctor->config->database);
    if (stat(path, &file) < 0 || file.st_size <= OUTBOX_WAL_LIMIT_BYTES)
        doctor_tell(doctor, "database.wal", DOCTOR_OK, NULL, "the write-ahead log has %.1f MiB",
                    stat(path, &file) < 0 ? 0 : (double)file.st_size / MIB);
    else
        doctor_tell(doctor, "database.wal", DOCTOR_WARN,
                    "find the reader that keeps a transaction open, and have it end",
                    "the write-ahead log has grown to %.1f MiB: a reader keeps it",
                    (double)file.st_size / MIB);
}

static void look_at_disk(struct doctor *doctor)
{
    struct statvfs disk;

    if (statvfs(doctor->config->database, &disk) < 0) {
        doctor_tell(doctor, "database.disk", DOCTOR_SKIP, NULL, "its disk cannot be looked at: %s",
                    strerror(errno));
        return;
    }
    uint64_t free_bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
    if ((disk.f_flag & ST_RDONLY) != 0)
        doctor_tell(doctor, "database.disk", DOCTOR_FAIL, "mount it read-write",
                    "its disk is read-only");
    else
        doctor_tell(doctor, "database.disk",
                    free_bytes < HEALTH_DISK_FAIL_BYTES   ? DOCTOR_FAIL
                    : free_bytes < HEALTH_DISK_WARN_BYTES ? DOCTOR_WARN
                                                          : DOCTOR_OK,
                    free_bytes < HEALTH_DISK_WARN_BYTES ? "make room on it" : NULL,
                    "%.0f MiB are free on its disk", (double)free_bytes / MIB);
}

/* Without it the daemon refuses to start; one that runs has it in memory, and shows nothing. */
static void look_at_identity_key(struct doctor *doctor)
{
    char path[PATH_MAX], key[PATH_MAX + sizeof ".key"];

    if (!realpath(doctor->config->database, path))
        return;
    outbox_name_beside(path, ".key", key, sizeof key);
    if (access(key, F_OK) < 0 && errno == ENOENT)
        doctor_tell(doctor, "database.file", DOCTOR_FAIL, "restore it from a backup",
                    "%s is missing: the next start will be refused, since every repeat of what the "
                    "database holds would count as new",
                    key);
}

static void look_at_database(struct doctor *doctor)
{
    const char *path = doctor->config->database;
    char failed[PATH_MAX];
    struct stat file;

    if (stat(path, &file) < 0) {
        doctor_tell(doctor, "database.file", errno == EACCES ? DOCTOR_SKIP : DOCTOR_FAIL,
                    errno == EACCES ? "run as root" : "start the daemon: it makes the database",
                    "%s: %s", path, strerror(errno));
        return;
    }
    (void)snprintf(failed, sizeof failed, "%s.failed", path);
    if (access(failed, F_OK) == 0)
        doctor_tell(doctor, "database.file", DOCTOR_FAIL,
                    "look at the disk and the log, then start the daemon: it checks the database "
                    "first",
                    "%s: the daemon stopped for a storage error", failed);
    else
        doctor_tell(doctor, "database.file", DOCTOR_OK, NULL, "%s, %.1f MiB", path,
                    (double)file.st_size / MIB);
    look_at_identity_key(doctor);
    look_at_mode(doctor, &file);
    look_at_content(doctor);
    look_at_wal(doctor);
    look_at_disk(doctor);
}

/* ---- sockets ---- */

static int connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int error = 0;

    if (fd < 0)
        return -errno;
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0)
        error = -errno;
    close(fd);
    return error;
}

static void look_at_socket(struct doctor *doctor, const char *check,
                           const struct config_address *address, bool for_everybody)
{
    struct stat file;
    int error;

    if (address->kind != CONFIG_ADDRESS_UNIX) /* asked over HTTP, in the daemon's chapter */
        return;
    if (stat(address->path, &file) < 0) {
        doctor_tell(doctor, check, DOCTOR_FAIL,
                    "start the daemon, or its socket units: systemctl enable --now "
                    "siwa-notifyd",
                    "%s: %s", address->path, strerror(errno));
        return;
    }
    error = connect_unix(address->path);
    if (error)
        doctor_tell(doctor, check, error == -EACCES ? DOCTOR_SKIP : DOCTOR_FAIL,
                    error == -EACCES ? "run as root" : "start the daemon", "%s: %s", address->path,
                    strerror(-error));
    else if (for_everybody && (file.st_mode & 02) == 0)
        doctor_tell(doctor, check, DOCTOR_WARN, "chmod 0666 on it, as siwa-notifyd.socket does",
                    "%s has mode %04o: a proxy of another user cannot connect", address->path,
                    file.st_mode & 07777U);
    else
        doctor_tell(doctor, check, DOCTOR_OK, NULL, "%s takes connections", address->path);
}

/* ---- the clock ---- */

static void look_at_clock(struct doctor *doctor)
{
    struct timex state = {0};
    int result = adjtimex(&state);

    if (clock_wall_ms() / 1000 < JUDGE_CLOCK_FLOOR_S)
        doctor_tell(doctor, "clock.set", DOCTOR_FAIL, "set it, and have it kept by NTP",
                    "the clock stands before 2019: nothing can be judged");
    else if (result < 0)
        doctor_tell(doctor, "clock.set", DOCTOR_SKIP, NULL, "adjtimex: %s", strerror(errno));
    else if (result == TIME_ERROR || (state.status & STA_UNSYNC) != 0)
        doctor_tell(doctor, "clock.set", DOCTOR_WARN,
                    "have it kept by NTP: apt-get install systemd-timesyncd, or chrony; in a "
                    "container, on its host",
                    "the kernel says that nothing keeps the clock right");
    else
        doctor_tell(doctor, "clock.set", DOCTOR_OK, NULL,
                    "kept by NTP, at most %.1f s off by its own estimate",
                    (double)state.maxerror / 1e6);
}

/* ---- the unit ---- */

/* What a command prints, at most bytes - 1 of it. False where it cannot be run or fails. */
static bool output_of(char *const argv[], char *ret_text, size_t bytes)
{
    posix_spawn_file_actions_t actions;
    int pipe_fds[2], status = -1;
    size_t used = 0;
    ssize_t got;
    pid_t pid;

    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return false;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    int error = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_fds[1]);
    while (error == 0 && used + 1 < bytes &&
           (got = read(pipe_fds[0], ret_text + used, bytes - 1 - used)) > 0)
        used += (size_t)got;
    ret_text[used] = '\0';
    close(pipe_fds[0]);
    return error == 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

/* Whether the lines have this one. */
static bool has_line(const char *lines, const char *line)
{
    const char *found = strstr(lines, line);
    size_t bytes = strlen(line);

    return found && (found == lines || found[-1] == '\n') &&
           (found[bytes] == '\n' || found[bytes] == '\0');
}

static void look_at_unit(struct doctor *doctor)
{
    static char program[] = "systemctl", verb[] = "show", unit[] = "siwa-notifyd.service",
                option[] = "--property=LoadState,ActiveState,NRestarts,UnitFileState,"
                           "PrivateNetwork,NoNewPrivileges,ProtectSystem";
    static char *const argv[] = {program, verb, unit, option, NULL};
    char lines[1024];
    const char *restarts;

    if (access("/run/systemd/system", F_OK) < 0) {
        doctor_tell(doctor, "unit.state", DOCTOR_SKIP, NULL, "systemd does not run here");
        return;
    }
    if (!output_of(argv, lines, sizeof lines) || has_line(lines, "LoadState=not-found")) {
        doctor_tell(doctor, "unit.state", DOCTOR_WARN, "make install, or install the package",
                    "systemd knows no siwa-notifyd.service");
        return;
    }
    restarts = strstr(lines, "NRestarts=");
    long count = restarts ? strtol(restarts + strlen("NRestarts="), NULL, 10) : 0;
    if (!has_line(lines, "ActiveState=active"))
        doctor_tell(doctor, "unit.state", DOCTOR_FAIL,
                    "systemctl enable --now siwa-notifyd; then journalctl -u siwa-notifyd",
                    "siwa-notifyd.service is not running");
    else if (count > 0)
        doctor_tell(doctor, "unit.state", DOCTOR_WARN, "journalctl -u siwa-notifyd tells why",
                    "siwa-notifyd.service runs, but was restarted %ld times", count);
    else
        doctor_tell(doctor, "unit.state", DOCTOR_OK, NULL, "siwa-notifyd.service runs");
    if (has_line(lines, "PrivateNetwork=yes") && has_line(lines, "NoNewPrivileges=yes") &&
        has_line(lines, "ProtectSystem=strict"))
        doctor_tell(doctor, "unit.sandbox", DOCTOR_OK, NULL,
                    "it has no network, no new privileges, and a read-only system");
    else
        doctor_tell(doctor, "unit.sandbox", DOCTOR_WARN,
                    "compare it with the unit that is shipped: systemctl cat siwa-notifyd",
                    "the unit's sandbox is wider than the one that is shipped");
}

void doctor_local(struct doctor *doctor)
{
    if (doctor->config) {
        look_at_database(doctor);
        look_at_socket(doctor, "socket.listen", &doctor->config->listen, true);
        look_at_socket(doctor, "socket.monitor", &doctor->config->monitor, false);
        look_at_socket(doctor, "socket.control", &doctor->config->control, false);
    }
    look_at_clock(doctor);
    look_at_unit(doctor);
}
