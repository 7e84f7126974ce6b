/*
 * service: what passes between the daemon and the service manager (sd_notify(3), sd_listen_fds(3),
 * written by hand: the protocol is a datagram and three environment variables).
 */
#ifndef SIWA_SUPPORT_SERVICE_H
#define SIWA_SUPPORT_SERVICE_H

#include <stddef.h>
#include <stdint.h>

/* Sends one state, such as "READY=1\nSTATUS=…", to NOTIFY_SOCKET, an absolute path or (with `@`)
 * an abstract name. 0 also where there is none; -EAGAIN when the manager took nothing for
 * SERVICE_NOTIFY_PATIENCE_S, another -errno when sending failed, -EINVAL for an address of another
 * form. Any thread. */
#define SERVICE_NOTIFY_PATIENCE_S 1
int service_notify(const char *state);

/* The interval in which WATCHDOG=1 is expected, in milliseconds and at least 1, or 0 where none is
 * (WATCHDOG_USEC; WATCHDOG_PID, where set, must be this process). Any thread. */
int64_t service_watchdog_ms(void);

#define SERVICE_LISTEN_FDS_MAX 16 /* more cannot be meant for us */

/* The passed socket with this name (LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID), or -ENOENT. It belongs
 * to the caller; asked twice, the same descriptor is given. A socket that is not a listening stream
 * socket is -EINVAL; a name that was given twice is -ENOTUNIQ, since one of the two would never be
 * served. A single passed socket without names is "notify". The first call of one of these two
 * functions sets close-on-exec on all that was passed and removes the three variables, so that no
 * child takes them for its own. Main thread, before others are started. */
int service_listen_fd(const char *name);

/* The name of passed socket number index, or NULL beyond the last: to notice one that is meant for
 * nobody. Borrowed for good. Main thread. */
const char *service_listen_name(size_t index);

#endif
