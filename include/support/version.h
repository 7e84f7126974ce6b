/*
 * version: what this release is called, and what it stands on.
 */
#ifndef SIWA_SUPPORT_VERSION_H
#define SIWA_SUPPORT_VERSION_H

#define SIWA_NAME "siwa-notifyd"

/* SIWA_VERSION, a string, comes from VERSION in the Makefile. */

#define VERSION_TEXT_BYTES 32

/* A library: which version this was built against, and which it runs with, which is the same where
 * the library does not tell. Each room that has a library to itself gives one. */
struct version_library {
    const char *name; /* static */
    char built[VERSION_TEXT_BYTES];
    char running[VERSION_TEXT_BYTES];
};

#endif
