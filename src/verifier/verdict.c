#include "verifier/verdict.h"

struct verdict_row {
    const char *label;
    unsigned status;
};

static const struct verdict_row verdict_rows[VERDICT_COUNT] = {
#define VERDICT_ROW(name, label, status) [VERDICT_##name] = {label, status},
    VERDICT_TABLE(VERDICT_ROW)
#undef VERDICT_ROW
};

/* What lies outside the table is VERDICT_INTERNAL, so that a wild value never answers 200. */
static const struct verdict_row *verdict_row(enum verdict verdict)
{
    unsigned index = (unsigned)verdict;

    return &verdict_rows[index < VERDICT_COUNT ? index : VERDICT_INTERNAL];
}

const char *verdict_label(enum verdict verdict)
{
    return verdict_row(verdict)->label;
}

unsigned verdict_status(enum verdict verdict)
{
    return verdict_row(verdict)->status;
}
