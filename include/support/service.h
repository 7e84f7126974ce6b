/*
 * service: what passes between the daemon and the service manager (sd_notify(3), sd_listen_fds(3),
 * written by hand: the protocol is a datagram and three environment variables).
 */
#ifndef SIWA_SUPPORT_SERVICE_H
#define SIWA_SUPPORT_SERVICE_H

#include <stddef.h>
#include <stdint.h>

/* Sends one state, such as "READY=1\nSTATUS=…", to NOTIFY_SOCKET. 0 also where there is none;
 * -errno when sending failed. Any thread. */
int service_notify(const char *state);

/* The interval in which WATCHDOG=1 is expected, in milliseconds, or 0 where none is (WATCHDOG_USEC,
 * WATCHDOG_PID). */
int64_t service_watchdog_ms(void);

/* The passed socket with this name (LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID), or -ENOENT. It is set
 * close-on-exec and belongs to the caller; asked twice, the same descriptor is given. A socket that
 * is not a listening stream socket is -EINVAL. A single passed socket without names is "notify".
 * Main thread. */
int service_listen_fd(const char *name);

#endif
