/*
 * version: what this release is called.
 */
#ifndef SIWA_SUPPORT_VERSION_H
#define SIWA_SUPPORT_VERSION_H

#define SIWA_NAME    "siwa-notifyd"
#define SIWA_VERSION "0.1.0"

#endif
