#include "config_table.h"

#include <stddef.h>

const struct config_row config_rows[] = {
#define CONFIG_ROW(section_, name_, kind_, struct_, field_, fallback_, min_, max_, help_) \
    {.info = {.section = section_, \
              .name = name_, \
              .fallback = fallback_, \
              .min = min_, \
              .max = max_, \
              .help = help_}, \
     .kind = CONFIG_KIND_##kind_, \
     .offset = offsetof(struct struct_, field_)},
    CONFIG_TABLE(CONFIG_ROW)
#undef CONFIG_ROW
};

const size_t config_row_count = sizeof config_rows / sizeof *config_rows;

const struct config_setting_info *config_setting_info(size_t index)
{
    return index < config_row_count ? &config_rows[index].info : NULL;
}
