/*
 * presign: signs distinct notifications ahead of time, so that a load is not limited by signing.
 *
 * presign KEY_FOLDER CLIENT_ID COUNT FILE: makes KEY_FOLDER with a key and its key set where it is
 * missing. Sub, jti and event_time differ in each; they are signed now, and event_time rises as it
 * does in Apple's traffic.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "bodies.h"
#include "cli/signer.h"

#define THREADS 2

struct job {
    const struct signer *signer;
    const char *client_id;
    char **bodies;
    size_t first, end;
    int64_t now_s;
    bool failed;
};

static void *sign_range(void *context)
{
    static const char *const types[] = {"email-enabled", "email-disabled", "consent-revoked",
                                        "account-delete"};
    struct job *job = context;

    for (size_t i = job->first; i < job->end && !job->failed; i++) {
        char jti[SIGNER_JTI_BYTES + 1], sub[SIGNER_SUB_BYTES + 1], email[SIGNER_EMAIL_BYTES + 1];
        if (signer_random_jti(jti) < 0 || signer_random_sub(sub) < 0 ||
            signer_random_email(email) < 0) {
            job->failed = true;
            break;
        }
        struct signer_notification notification = {
            .issuer = SIGNER_ISSUER,
            .client_id = job->client_id,
            .jti = jti,
            .issued_at_s = job->now_s,
            .type = types[i % 4],
            .sub = sub,
            .email = i % 4 < 2 ? email : NULL,
            /* A millisecond apart, in the order in which they will be sent. */
            .event_time_ms = (job->now_s - 86000) * 1000 + (int64_t)i,
        };
        job->failed = signer_body(job->signer, &notification, &job->bodies[i]) < 0;
    }
    return NULL;
}

static bool write_bodies(const char *path, char *const *bodies, size_t count)
{
    FILE *file = fopen(path, "wbe");
    if (!file)
        return false;
    uint64_t head[] = {BODIES_MAGIC, count}, offset = (count + 3) * sizeof(uint64_t);
    bool ok = fwrite(head, sizeof head, 1, file) == 1;
    for (size_t i = 0; i <= count; i++) {
        ok = ok && fwrite(&offset, sizeof offset, 1, file) == 1;
        offset += i < count ? strlen(bodies[i]) : 0;
    }
    for (size_t i = 0; i < count; i++)
        ok = ok && fputs(bodies[i], file) >= 0;
    return fclose(file) == 0 && ok;
}

static struct signer *open_key(const char *folder)
{
    char why[SIGNER_WHY_BYTES] = "OpenSSL made no key";
    struct signer *signer = NULL;

    int error = signer_load(folder, &signer, why);
    if (error == -ENOENT && signer_generate(&signer) == 0)
        error = signer_save(signer, folder, why);
    if (error < 0) {
        fprintf(stderr, "presign: %s\n", why);
        exit(1);
    }
    return signer;
}

int main(int argc, char **argv)
{
    if (argc != 5 || atoll(argv[3]) < 1) {
        fprintf(stderr, "usage: presign KEY_FOLDER CLIENT_ID COUNT FILE\n");
        return 2;
    }
    struct signer *signer = open_key(argv[1]);
    size_t count = (size_t)atoll(argv[3]);
    char **bodies = calloc(count, sizeof *bodies);
    if (!bodies)
        return 1;

    struct job jobs[THREADS];
    pthread_t threads[THREADS];
    int64_t now_s = (int64_t)time(NULL);
    bool ok = true;
    for (size_t i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){.signer = signer,
                               .client_id = argv[2],
                               .bodies = bodies,
                               .first = count * i / THREADS,
                               .end = count * (i + 1) / THREADS,
                               .now_s = now_s};
        if (pthread_create(&threads[i], NULL, sign_range, &jobs[i]) != 0)
            return 1;
    }
    for (size_t i = 0; i < THREADS; i++)
        ok = pthread_join(threads[i], NULL) == 0 && !jobs[i].failed && ok;
    ok = ok && write_bodies(argv[4], bodies, count);
    if (!ok)
        fprintf(stderr, "presign: %s was not made\n", argv[4]);

    for (size_t i = 0; i < count; i++)
        free(bodies[i]);
    free(bodies);
    signer_free(signer);
    return ok ? 0 : 1;
}
