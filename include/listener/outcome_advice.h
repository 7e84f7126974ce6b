/*
 * outcome_advice: what probably stands behind an outcome, and what to do, for operators.
 */
#ifndef SIWA_LISTENER_OUTCOME_ADVICE_H
#define SIWA_LISTENER_OUTCOME_ADVICE_H

#include "verifier/verdict.h"

/* One sentence or two, a static string; empty where there is nothing to do. Any thread. */
const char *outcome_advice(enum verdict verdict);

#endif
