/* identity: the same event gives the same value, another event another, and nobody without the key
 * can compute it. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "deliveries.h"
#include "dispatcher/identity.h"

#define SUB "000123.0123456789abcdef0123456789abcdef.0456"

static char key_file[PATH_MAX + 16];
static char why[JWKS_WHY_BYTES];

static void set_up(void)
{
    folder_make();
    snprintf(key_file, sizeof key_file, "%s/outbox.key", test_folder);
    why[0] = '\0';
}

static void write_file(const char *path, const void *bytes, size_t count, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, count), (ssize_t)count);
    ck_assert_int_eq(fchmod(fd, mode), 0);
    close(fd);
}

static struct identity_key *key_make(void)
{
    struct identity_key *key = NULL;

    ck_assert_int_eq(identity_key_open(key_file, true, &key, why), 0);
    return key;
}

static struct notification person(void)
{
    struct notification notification = {
        .aud = APP_PLAIN, .jti = "abcdefghijklmnopqrstuv", .event_count = 2};

    notification.events[0] = (struct event){.kind = EVENT_TYPE_CONSENT_REVOKED,
                                            .type = "consent-revoked",
                                            .raw_type = "consent-revoked",
                                            .sub = SUB,
                                            .event_time_ms = NOW_MS};
    notification.events[1] = notification.events[0];
    return notification;
}

static bool same(struct identity_key *key, const struct notification *a, size_t a_index,
                 const struct notification *b, size_t b_index)
{
    unsigned char first[IDENTITY_BYTES], second[IDENTITY_BYTES];

    ck_assert_int_eq(identity_of(key, a, a_index, first), 0);
    ck_assert_int_eq(identity_of(key, b, b_index, second), 0);
    return memcmp(first, second, IDENTITY_BYTES) == 0;
}

START_TEST(is_the_same_for_what_apple_repeats)
{
    struct identity_key *key = key_make();
    struct notification first = person(), repeat = person();

    /* another token with another jti, another spelling, another place in an array */
    repeat.jti = "zyxwvutsrqponmlkjihgfe";
    repeat.events[1].raw_type = "Consent-Revoked";
    repeat.events[1].email = "somebody@example.com";
    ck_assert(same(key, &first, 0, &repeat, 1));
    identity_key_free(key);
}
END_TEST

START_TEST(differs_in_each_of_its_parts)
{
    struct identity_key *key = key_make();
    struct notification first = person(), other = person();

    other.aud = APP_NO_MAIL;
    ck_assert(!same(key, &first, 0, &other, 0));
    other = person();
    other.events[0].type = "account-delete";
    ck_assert(!same(key, &first, 0, &other, 0));
    other = person();
    other.events[0].sub = "000124.0123456789abcdef0123456789abcdef.0456";
    ck_assert(!same(key, &first, 0, &other, 0));
    other = person();
    other.events[0].event_time_ms++;
    ck_assert(!same(key, &first, 0, &other, 0));
    identity_key_free(key);
}
END_TEST

/* Without lengths, what one part loses at its end the next could have at its beginning, and an
 * event would pass for another that was stored: it would be lost. */
START_TEST(parts_cannot_flow_into_each_other)
{
    struct identity_key *key = key_make();
    struct notification first = person(), other = person();

    first.aud = "com.example";
    first.events[0].type = "ab";
    first.events[0].sub = "c";
    other.aud = "com.example";
    other.events[0].type = "a";
    other.events[0].sub = "bc";
    ck_assert(!same(key, &first, 0, &other, 0));
    first.aud = "com.exampleab";
    first.events[0].type = "c";
    ck_assert(!same(key, &first, 0, &other, 0));
    identity_key_free(key);
}
END_TEST

START_TEST(falls_back_to_the_token_where_sub_or_time_is_missing)
{
    struct identity_key *key = key_make();
    struct notification without_sub = person(), without_time = person(), other = person();

    without_sub.events[0].sub = without_sub.events[1].sub = NULL;
    without_time.events[0].event_time_ms = 0;
    ck_assert(same(key, &without_sub, 0, &without_time, 0));
    ck_assert(!same(key, &without_sub, 0, &without_sub, 1));
    other.events[0].sub = NULL;
    other.jti = "zyxwvutsrqponmlkjihgfe";
    ck_assert(!same(key, &without_sub, 0, &other, 0));
    other.jti = without_sub.jti;
    other.aud = APP_NO_MAIL;
    ck_assert(!same(key, &without_sub, 0, &other, 0));
    identity_key_free(key);
}
END_TEST

/* A token whose jti spells what another event's type and sub are must not pass for it. */
START_TEST(the_two_forms_never_meet)
{
    struct identity_key *key = key_make();
    struct notification by_person = person(), by_token = person();

    by_person.events[0].type = "t";
    by_person.events[0].sub = "s";
    by_person.events[0].event_time_ms = 1;
    by_token.events[0].sub = NULL;
    by_token.events[1].sub = NULL;
    by_token.jti = "t";
    ck_assert(!same(key, &by_person, 0, &by_token, 0));
    ck_assert(!same(key, &by_person, 0, &by_token, 1));
    identity_key_free(key);
}
END_TEST

START_TEST(has_none_without_sub_time_and_jti)
{
    struct identity_key *key = key_make();
    struct notification notification = person();
    unsigned char identity[IDENTITY_BYTES] = {7}, before[IDENTITY_BYTES] = {7};

    notification.jti = NULL;
    notification.events[0].sub = NULL;
    ck_assert_int_eq(identity_of(key, &notification, 0, identity), -EINVAL);
    ck_assert_mem_eq(identity, before, IDENTITY_BYTES);
    /* sub and time suffice without a jti */
    ck_assert_int_eq(identity_of(key, &notification, 1, identity), 0);
    identity_key_free(key);
}
END_TEST

START_TEST(takes_the_longest_claims)
{
    struct identity_key *key = key_make();
    struct notification notification = person();
    char longest[NOTIFICATION_CLAIM_MAX_BYTES + 1], longer[NOTIFICATION_CLAIM_MAX_BYTES + 2];
    unsigned char identity[IDENTITY_BYTES];

    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    notification.aud = notification.events[0].type = notification.events[0].sub = longest;
    ck_assert_int_eq(identity_of(key, &notification, 0, identity), 0);
    notification.events[0].sub = longer;
    ck_assert_int_eq(identity_of(key, &notification, 0, identity), -EINVAL);
    identity_key_free(key);
}
END_TEST

/* Held to an independent computation: the value is on disk for years, and may never change. */
START_TEST(is_hmac_sha_256_over_the_documented_bytes)
{
    static const unsigned char secret[IDENTITY_KEY_BYTES] = "0123456789abcdef0123456789abcde";
    static const unsigned char input[] = "P\0\0\0\1a\0\0\0\1t\0\0\0\1s\0\0\0\x8\0\0\0\0\0\0\1\2";
    struct notification notification = {.aud = "a", .event_count = 1};
    unsigned char identity[IDENTITY_BYTES], expected[EVP_MAX_MD_SIZE];
    struct identity_key *key = NULL;
    unsigned expected_bytes = 0;

    notification.events[0] =
        (struct event){.type = "t", .raw_type = "t", .sub = "s", .event_time_ms = 0x102};
    write_file(key_file, secret, sizeof secret, 0600);
    ck_assert_int_eq(identity_key_open(key_file, false, &key, why), 0);
    ck_assert_ptr_nonnull(HMAC(EVP_sha256(), secret, sizeof secret, input, sizeof input - 1,
                               expected, &expected_bytes));
    for (int again = 0; again < 3; again++) { /* the context is used again and again */
        ck_assert_int_eq(identity_of(key, &notification, 0, identity), 0);
        ck_assert_mem_eq(identity, expected, IDENTITY_BYTES);
    }
    identity_key_free(key);
}
END_TEST

START_TEST(bytes_have_a_form_of_their_own)
{
    struct identity_key *key = key_make();
    unsigned char first[IDENTITY_BYTES], second[IDENTITY_BYTES];

    ck_assert_int_eq(identity_of_bytes(key, "ab", 2, first), 0);
    ck_assert_int_eq(identity_of_bytes(key, "ab", 2, second), 0);
    ck_assert_mem_eq(first, second, IDENTITY_BYTES);
    ck_assert_int_eq(identity_of_bytes(key, "ac", 2, second), 0);
    ck_assert_mem_ne(first, second, IDENTITY_BYTES);
    identity_key_free(key);
}
END_TEST

static bool same_person(struct identity_key *key, const char *const a[3], const char *const b[3])
{
    unsigned char first[PERSON_BYTES], second[PERSON_BYTES];

    ck_assert_int_eq(identity_of_person(key, a[0], a[1], a[2], first), 0);
    ck_assert_int_eq(identity_of_person(key, b[0], b[1], b[2], second), 0);
    return memcmp(first, second, PERSON_BYTES) == 0;
}

START_TEST(a_person_is_one_in_all_apps_of_a_team)
{
    static const char *const person_of_app[] = {"ABCDE12345", APP_PLAIN, SUB};
    static const char *const in_another_app[] = {"ABCDE12345", APP_NO_MAIL, SUB};
    static const char *const others[][3] = {
        {"ABCDE12346", APP_PLAIN, SUB},
        {"ABCDE12345", APP_PLAIN, SUB "x"},
        {"", APP_PLAIN, SUB},
        {"", APP_NO_MAIL, SUB},
        {"", "ABCDE12345", SUB},
        {"ABCDE1234", APP_PLAIN, "5" SUB},
        {"", "com.example.ap", "p" SUB},
    };
    struct identity_key *key = key_make();

    ck_assert(same_person(key, person_of_app, in_another_app));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        ck_assert(!same_person(key, person_of_app, others[i]));
        for (size_t j = 0; j < i; j++)
            ck_assert(!same_person(key, others[i], others[j]));
    }
    identity_key_free(key);
}
END_TEST

START_TEST(a_person_is_not_taken_for_an_event)
{
    struct identity_key *key = key_make();
    unsigned char whole[IDENTITY_BYTES], person_value[PERSON_BYTES];
    static const unsigned char input[] = "\0\0\0\1T\0\0\0\0\0\0\0\1S";

    ck_assert_int_eq(identity_of_person(key, "T", "", "S", person_value), 0);
    ck_assert_int_eq(identity_of_bytes(key, input, sizeof input - 1, whole), 0);
    ck_assert_mem_ne(person_value, whole, PERSON_BYTES);
    identity_key_free(key);
}
END_TEST

START_TEST(a_sub_longer_than_any_claim_is_no_person)
{
    struct identity_key *key = key_make();
    unsigned char value[PERSON_BYTES];
    size_t bytes = 4 * NOTIFICATION_CLAIM_MAX_BYTES;
    char *sub = malloc(bytes + 1);

    ck_assert_ptr_nonnull(sub);
    memset(sub, 's', bytes);
    sub[bytes] = '\0';
    ck_assert_int_eq(identity_of_person(key, "ABCDE12345", APP_PLAIN, sub, value), -EINVAL);
    sub[NOTIFICATION_CLAIM_MAX_BYTES] = '\0';
    ck_assert_int_eq(identity_of_person(key, "ABCDE12345", APP_PLAIN, sub, value), 0);
    free(sub);
    identity_key_free(key);
}
END_TEST

START_TEST(another_key_gives_other_identities)
{
    struct identity_key *key = key_make(), *other = NULL;
    struct notification notification = person();
    unsigned char first[IDENTITY_BYTES], second[IDENTITY_BYTES];

    ck_assert_int_eq(unlink(key_file), 0);
    ck_assert_int_eq(identity_key_open(key_file, true, &other, why), 0);
    ck_assert_int_eq(identity_of(key, &notification, 0, first), 0);
    ck_assert_int_eq(identity_of(other, &notification, 0, second), 0);
    ck_assert_mem_ne(first, second, IDENTITY_BYTES);
    identity_key_free(key);
    identity_key_free(other);
}
END_TEST

START_TEST(the_key_file_is_made_once_for_its_owner_alone)
{
    struct identity_key *key, *again = NULL;
    struct notification notification = person();
    unsigned char first[IDENTITY_BYTES], second[IDENTITY_BYTES];
    struct stat file;

    umask(0);
    key = key_make();
    ck_assert_int_eq(stat(key_file, &file), 0);
    ck_assert_int_eq(file.st_mode & 07777, 0600);
    ck_assert_int_eq(file.st_size, IDENTITY_KEY_BYTES);
    ck_assert_uint_eq(file.st_nlink, 1);
    ck_assert_int_eq(identity_key_open(key_file, true, &again, why), 0);
    ck_assert_int_eq(identity_of(key, &notification, 0, first), 0);
    ck_assert_int_eq(identity_of(again, &notification, 0, second), 0);
    ck_assert_mem_eq(first, second, IDENTITY_BYTES);
    identity_key_free(key);
    identity_key_free(again);
}
END_TEST

static void refused(int error)
{
    struct identity_key *key = NULL;

    why[0] = '\0';
    ck_assert_int_eq(identity_key_open(key_file, true, &key, why), error);
    ck_assert_ptr_null(key);
    ck_assert_ptr_nonnull(strstr(why, key_file));
}

START_TEST(a_key_file_that_is_not_right_is_refused)
{
    static const unsigned char bytes[IDENTITY_KEY_BYTES + 1] = {1};
    char elsewhere[PATH_MAX + 32];

    write_file(key_file, bytes, IDENTITY_KEY_BYTES - 1, 0600);
    refused(-EINVAL);
    write_file(key_file, bytes, IDENTITY_KEY_BYTES + 1, 0600);
    refused(-EINVAL);
    write_file(key_file, bytes, 0, 0600);
    refused(-EINVAL);
    write_file(key_file, bytes, IDENTITY_KEY_BYTES, 0640);
    refused(-EINVAL);
    write_file(key_file, bytes, IDENTITY_KEY_BYTES, 0604);
    refused(-EINVAL);
    /* a link may be put there by whoever may write the folder, to a file whose content he knows */
    snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", test_folder);
    write_file(elsewhere, bytes, IDENTITY_KEY_BYTES, 0600);
    unlink(key_file);
    ck_assert_int_eq(symlink(elsewhere, key_file), 0);
    refused(-ELOOP);
    unlink(key_file);
    ck_assert_int_eq(mkdir(key_file, 0700), 0);
    refused(-EINVAL);
    rmdir(key_file);
    ck_assert_int_eq(mkfifo(key_file, 0600), 0); /* must not wait for a writer */
    refused(-EINVAL);
}
END_TEST

START_TEST(a_key_of_another_user_is_refused)
{
    static const unsigned char bytes[IDENTITY_KEY_BYTES] = {1};

    if (geteuid() != 0) {
        puts("not run here: changing the owner of a file needs root");
        return;
    }
    write_file(key_file, bytes, sizeof bytes, 0600);
    ck_assert_int_eq(chown(key_file, 65534, 65534), 0);
    refused(-EINVAL);
}
END_TEST

START_TEST(a_missing_key_is_made_only_when_asked)
{
    struct identity_key *key = NULL;

    ck_assert_int_eq(identity_key_open(key_file, false, &key, why), -ENOENT);
    ck_assert_ptr_null(key);
    ck_assert_int_ne(access(key_file, F_OK), 0);
}
END_TEST

/* A process that was killed while it made the key left a part of one under its temporary name. */
START_TEST(half_a_key_of_an_earlier_start_is_no_obstacle)
{
    char temporary[PATH_MAX + 32];
    struct identity_key *key;

    snprintf(temporary, sizeof temporary, "%s.new", key_file);
    write_file(temporary, "half", 4, 0600);
    key = key_make();
    ck_assert_int_ne(access(temporary, F_OK), 0);
    identity_key_free(key);
    identity_key_free(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("identity");
    TCase *tests = tcase_create("identity");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tests, set_up, folder_remove);
    tcase_add_test(tests, is_the_same_for_what_apple_repeats);
    tcase_add_test(tests, differs_in_each_of_its_parts);
    tcase_add_test(tests, parts_cannot_flow_into_each_other);
    tcase_add_test(tests, falls_back_to_the_token_where_sub_or_time_is_missing);
    tcase_add_test(tests, the_two_forms_never_meet);
    tcase_add_test(tests, has_none_without_sub_time_and_jti);
    tcase_add_test(tests, takes_the_longest_claims);
    tcase_add_test(tests, is_hmac_sha_256_over_the_documented_bytes);
    tcase_add_test(tests, bytes_have_a_form_of_their_own);
    tcase_add_test(tests, a_person_is_one_in_all_apps_of_a_team);
    tcase_add_test(tests, a_person_is_not_taken_for_an_event);
    tcase_add_test(tests, a_sub_longer_than_any_claim_is_no_person);
    tcase_add_test(tests, another_key_gives_other_identities);
    tcase_add_test(tests, the_key_file_is_made_once_for_its_owner_alone);
    tcase_add_test(tests, a_key_file_that_is_not_right_is_refused);
    tcase_add_test(tests, a_key_of_another_user_is_refused);
    tcase_add_test(tests, a_missing_key_is_made_only_when_asked);
    tcase_add_test(tests, half_a_key_of_an_earlier_start_is_no_obstacle);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
