/* Other work for the writer: in a transaction, apart from each other, and told of once. */
#include <check.h>
#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../src/dispatcher/outbox_internal.h"
#include "dispatcher/writer.h"
#include "support/clock.h"

static char directory[64], path[128];
static struct outbox *outbox;
static struct writer *writer;
static atomic_int fatal_calls, committed_calls;

static void count_committed(void *context)
{
    (void)context;
    atomic_fetch_add(&committed_calls, 1);
}

static void count_fatal(void *context)
{
    (void)context;
    atomic_fetch_add(&fatal_calls, 1);
}

static void set_up(void)
{
    char why[OUTBOX_WHY_BYTES] = "";

    atomic_store(&committed_calls, 0);
    strcpy(directory, "/tmp/siwa-writer-task-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    (void)snprintf(path, sizeof path, "%s/outbox.db", directory);
    ck_assert_msg(outbox_open(path, clock_wall_ms(), &outbox, why) == 0, "%s", why);
    struct writer_settings settings = {.outbox = outbox,
                                       .queue_events = 16,
                                       .on_committed = count_committed,
                                       .on_fatal = count_fatal};
    ck_assert_int_eq(writer_start(&settings, &writer), 0);
}

static void tear_down(void)
{
    char command[128], why[OUTBOX_WHY_BYTES];

    writer_free(writer);
    (void)outbox_close(outbox, why);
    (void)snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}

/* A task that inserts its name, then comes to what it is told to. */
struct insert {
    struct writer_task task;
    const char *name;
    enum outbox_error result;
    enum outbox_error told;
    atomic_int done_calls;
    sem_t *go; /* waited for before it does anything */
    sem_t over;
};

static enum outbox_error insert_run(struct outbox *box, struct writer_task *task)
{
    struct insert *insert = (struct insert *)task;
    char sql[128];

    if (insert->go)
        sem_wait(insert->go);
    (void)snprintf(sql, sizeof sql, "INSERT INTO apps VALUES ('%s', 1)", insert->name);
    ck_assert_int_eq(sqlite3_exec(box->db, sql, NULL, NULL, NULL), SQLITE_OK);
    return insert->result;
}

static void insert_done(struct writer_task *task, enum outbox_error error)
{
    struct insert *insert = (struct insert *)task;

    insert->told = error;
    atomic_fetch_add(&insert->done_calls, 1);
    sem_post(&insert->over);
}

static void insert_init(struct insert *insert, const char *name, enum outbox_error result)
{
    *insert = (struct insert){
        .task = {.run = insert_run, .done = insert_done}, .name = name, .result = result};
    sem_init(&insert->over, 0, 0);
}

static void names_into(void *context, const char *client_id, int64_t last_ms)
{
    (void)last_ms;
    strcat(context, client_id);
    strcat(context, " ");
}

/* What a reader of the file sees. */
static const char *names(void)
{
    static char text[4096];
    struct outbox_reader *reader;
    char why[OUTBOX_WHY_BYTES];

    text[0] = '\0';
    ck_assert_int_eq(outbox_reader_open(path, &reader, why), 0);
    ck_assert_int_eq(outbox_reader_last_accepted(reader, names_into, text), 0);
    outbox_reader_close(reader);
    return text;
}

START_TEST(test_done_means_committed)
{
    struct insert one;

    insert_init(&one, "one", OUTBOX_ERROR_NONE);
    ck_assert_int_eq(writer_post(writer, &one.task), 0);
    sem_wait(&one.over);
    ck_assert_int_eq(one.told, OUTBOX_ERROR_NONE);
    ck_assert_str_eq(names(), "one ");
}
END_TEST

/* One that fails takes back what it wrote, and nothing of the others in the same transaction. */
START_TEST(test_a_failure_stays_alone)
{
    struct insert first, bad, last, gate;
    sem_t go;

    sem_init(&go, 0, 0);
    insert_init(&gate, "gate", OUTBOX_ERROR_NONE);
    gate.go = &go;
    insert_init(&first, "first", OUTBOX_ERROR_NONE);
    insert_init(&bad, "bad", OUTBOX_ERROR_DELIVERY);
    insert_init(&last, "last", OUTBOX_ERROR_NONE);
    ck_assert_int_eq(writer_post(writer, &gate.task), 0);
    ck_assert_int_eq(writer_post(writer, &first.task), 0);
    ck_assert_int_eq(writer_post(writer, &bad.task), 0);
    ck_assert_int_eq(writer_post(writer, &last.task), 0);
    sem_post(&go);
    sem_wait(&last.over);
    ck_assert_int_eq(first.told, OUTBOX_ERROR_NONE);
    ck_assert_int_eq(bad.told, OUTBOX_ERROR_DELIVERY);
    ck_assert_int_eq(last.told, OUTBOX_ERROR_NONE);
    ck_assert_str_eq(names(), "first gate last ");
}
END_TEST

/* A transient error takes back the whole transaction, and each task is told. */
START_TEST(test_a_transient_error_is_told_to_all_and_stores_nothing)
{
    struct insert gate, first, bad;
    sem_t go;

    sem_init(&go, 0, 0);
    insert_init(&gate, "gate", OUTBOX_ERROR_NONE);
    gate.go = &go;
    ck_assert_int_eq(writer_post(writer, &gate.task), 0);
    sem_post(&go);
    sem_wait(&gate.over);
    insert_init(&first, "first", OUTBOX_ERROR_NONE);
    first.go = &go;
    insert_init(&bad, "bad", OUTBOX_ERROR_TRANSIENT);
    ck_assert_int_eq(writer_post(writer, &first.task), 0);
    ck_assert_int_eq(writer_post(writer, &bad.task), 0);
    sem_post(&go);
    sem_wait(&bad.over);
    ck_assert_int_eq(bad.told, OUTBOX_ERROR_TRANSIENT);
    ck_assert_ptr_null(strstr(names(), "bad"));
}
END_TEST

START_TEST(test_after_a_fatal_error_nothing_runs_and_all_are_told)
{
    struct insert gate, later;
    sem_t go;

    sem_init(&go, 0, 0);
    insert_init(&gate, "gate", OUTBOX_ERROR_FATAL);
    gate.go = &go;
    ck_assert_int_eq(writer_post(writer, &gate.task), 0);
    sem_post(&go);
    sem_wait(&gate.over);
    ck_assert_int_eq(gate.told, OUTBOX_ERROR_FATAL);
    insert_init(&later, "later", OUTBOX_ERROR_NONE);
    ck_assert_int_eq(writer_post(writer, &later.task), -EIO);
    writer_stop(writer);
    ck_assert_int_eq(atomic_load(&fatal_calls), 1);
    ck_assert_str_eq(names(), "");
}
END_TEST

/* As a release from quarantine does. */
static enum outbox_error number_run(struct outbox *box, struct writer_task *task)
{
    box->pending.last_id++;
    return insert_run(box, task);
}

START_TEST(test_rows_of_a_task_are_told_as_any)
{
    struct insert none, taken_back, some;

    insert_init(&none, "none", OUTBOX_ERROR_NONE);
    insert_init(&taken_back, "taken back", OUTBOX_ERROR_DELIVERY);
    taken_back.task.run = number_run;
    insert_init(&some, "some", OUTBOX_ERROR_NONE);
    some.task.run = number_run;
    ck_assert_int_eq(writer_post(writer, &none.task), 0);
    sem_wait(&none.over);
    ck_assert_int_eq(writer_post(writer, &taken_back.task), 0);
    sem_wait(&taken_back.over);
    ck_assert_int_eq(atomic_load(&committed_calls), 0);
    ck_assert_int_eq(writer_post(writer, &some.task), 0);
    sem_wait(&some.over);
    ck_assert_int_eq(atomic_load(&committed_calls), 1);
}
END_TEST

START_TEST(test_the_queue_is_bounded_and_a_stop_runs_what_it_holds)
{
    /* The writer may take a turn's worth of them with the gate, and then waits. */
    static struct insert many[WRITER_TASKS_MAX + WRITER_TASKS_TURN];
    static char texts[WRITER_TASKS_MAX + WRITER_TASKS_TURN][16];
    struct insert gate;
    sem_t go;
    static int taken[WRITER_TASKS_MAX + WRITER_TASKS_TURN];
    int queued = 0;

    sem_init(&go, 0, 0);
    insert_init(&gate, "gate", OUTBOX_ERROR_NONE);
    gate.go = &go;
    ck_assert_int_eq(writer_post(writer, &gate.task), 0);
    for (int i = 0; i < WRITER_TASKS_MAX + WRITER_TASKS_TURN; i++) {
        (void)snprintf(texts[i], sizeof texts[i], "n%d", i);
        insert_init(&many[i], texts[i], OUTBOX_ERROR_NONE);
        int error = writer_post(writer, &many[i].task);
        if (error == 0)
            taken[queued++] = i;
        else
            ck_assert_int_eq(error, -EAGAIN);
    }
    ck_assert_int_ge(queued, WRITER_TASKS_MAX - 1);
    ck_assert_int_lt(queued, WRITER_TASKS_MAX + WRITER_TASKS_TURN);
    sem_post(&go);
    writer_stop(writer);
    for (int i = 0; i < queued; i++)
        ck_assert_int_eq(atomic_load(&many[taken[i]].done_calls), 1);
    ck_assert_int_eq(writer_post(writer, &gate.task), -ESHUTDOWN);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("writer_task");
    TCase *tasks = tcase_create("tasks");
    SRunner *runner = srunner_create(suite);

    tcase_add_checked_fixture(tasks, set_up, tear_down);
    tcase_add_test(tasks, test_done_means_committed);
    tcase_add_test(tasks, test_a_failure_stays_alone);
    tcase_add_test(tasks, test_a_transient_error_is_told_to_all_and_stores_nothing);
    tcase_add_test(tasks, test_after_a_fatal_error_nothing_runs_and_all_are_told);
    tcase_add_test(tasks, test_rows_of_a_task_are_told_as_any);
    tcase_add_test(tasks, test_the_queue_is_bounded_and_a_stop_runs_what_it_holds);
    suite_add_tcase(suite, tasks);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
