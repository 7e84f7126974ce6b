/*
 * sql: statements against a database under test. Header only.
 */
#ifndef SIWA_TESTS_SQL_H
#define SIWA_TESTS_SQL_H

#include <check.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include "../../src/dispatcher/outbox_internal.h"

/* Runs statements, at most 1023 bytes of them; a failure fails the test. */
__attribute__((format(printf, 2, 3))) static inline void sql_run(sqlite3 *db, const char *format,
                                                                 ...)
{
    va_list arguments;
    char text[1024], *why = NULL;

    va_start(arguments, format);
    ck_assert_int_lt(vsnprintf(text, sizeof text, format, arguments), (int)sizeof text);
    va_end(arguments);
    ck_assert_msg(sqlite3_exec(db, text, NULL, NULL, &why) == SQLITE_OK, "%s: %s", text, why);
}

/* The one number that a query gives. */
static inline int64_t sql_number(sqlite3 *db, const char *query)
{
    int64_t value = -1;

    ck_assert_msg(outbox_query_number(db, query, &value) == SQLITE_OK, "%s", query);
    return value;
}

#endif
