/*
 * version: what this release is called.
 */
#ifndef SIWA_SUPPORT_VERSION_H
#define SIWA_SUPPORT_VERSION_H

#define SIWA_NAME "siwa-notifyd"

/* SIWA_VERSION, a string, comes from VERSION in the Makefile. */

#endif
