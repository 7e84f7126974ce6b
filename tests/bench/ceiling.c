/*
 * ceiling: what the parts cost alone, measured beside the daemon in one run.
 *
 * ceiling rsa JWKS BODIES SECONDS       bare RSA verification, one long-lived key, reused context
 * ceiling fdatasync FILE BYTES SECONDS  an append and fdatasync
 * ceiling serve http CONFIG             the HTTP room with a service that answers 200 at once
 * ceiling serve verify CONFIG           the same, and every body judged before
 * ceiling serve commit CONFIG           the same, and a commit for each request, in its thread
 *
 * The first two print one line of JSON. The servers print `ready` and end on SIGTERM; they take
 * listen, keys (file:), apps, database and limits from the configuration.
 */
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "bodies.h"
#include "dispatcher/outbox.h"
#include "dispatcher/policy.h"
#include "keys/fetch.h"
#include "listener/http.h"
#include "support/clock.h"
#include "support/config.h"
#include "verifier/judge.h"

#define RSA_TOKENS_MAX  2000
#define APPENDS_MAX     1000000
#define MICROS_A_SECOND 1000000

__attribute__((noreturn)) static void die(const char *what, const char *why)
{
    fprintf(stderr, "ceiling: %s: %s\n", what, why);
    exit(1);
}

static int64_t cpu_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * MICROS_A_SECOND + now.tv_nsec / 1000;
}

static struct jwks *read_keys(const char *path)
{
    char why[FETCH_WHY_BYTES];
    struct fetch_source source = {.kind = CONFIG_KEYS_FILE, .path = path};
    struct jwks *keys = NULL;
    char *text = NULL;
    size_t bytes = 0;

    if (fetch_keys_text(&source, &text, &bytes, why) != FETCH_RESULT_OK)
        die(path, why);
    if (jwks_parse(text, bytes, &keys, why) < 0)
        die(path, why);
    free(text);
    return keys;
}

static int measure_rsa(const char *keys_path, const char *bodies_path, double seconds)
{
    struct jwks *keys = read_keys(keys_path);
    struct bodies bodies = bodies_open(bodies_path);
    size_t count = bodies.count < RSA_TOKENS_MAX ? bodies.count : RSA_TOKENS_MAX;
    struct jws *tokens = calloc(count, sizeof *tokens);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(jwk_pkey(jwks_at(keys, 0)), NULL);

    if (!tokens || !context)
        die("rsa", "out of memory");
    for (size_t i = 0; i < count; i++) {
        struct notification_token token;
        size_t bytes;
        const char *body = bodies_at(&bodies, i, &bytes);
        if (notification_find_token(body, bytes, &token) != VERDICT_ACCEPTED ||
            jws_parse(token.text, token.bytes, &tokens[i]) != VERDICT_ACCEPTED)
            die(bodies_path, "holds what is no notification");
        notification_token_release(&token);
    }
    if (EVP_PKEY_verify_init(context) != 1 ||
        EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING) != 1 ||
        EVP_PKEY_CTX_set_signature_md(context, EVP_sha256()) != 1)
        die("rsa", "OpenSSL refuses the key");

    uint64_t verified = 0;
    int64_t begin_cpu_us = cpu_us(), begin_us = clock_monotonic_us();
    int64_t end_us = begin_us + (int64_t)(seconds * MICROS_A_SECOND);
    while (clock_monotonic_us() < end_us) {
        const struct jws *token = &tokens[verified % count];
        unsigned char digest[SHA256_DIGEST_LENGTH];
        /* The cheapest way that there is: EVP_DigestVerify costs a microsecond more. */
        if (!SHA256((const unsigned char *)token->signing_input, token->signing_input_bytes,
                    digest) ||
            EVP_PKEY_verify(context, token->signature, token->signature_bytes, digest,
                            sizeof digest) != 1)
            die("rsa", "a signature does not verify");
        verified++;
    }
    printf("{\"verified\":%" PRIu64 ",\"cpu_us\":%.3f}\n", verified,
           (double)(cpu_us() - begin_cpu_us) / (double)verified);
    EVP_PKEY_CTX_free(context);
    free(tokens);
    jwks_free(keys);
    return 0;
}

static int by_value(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return left < right ? -1 : left > right;
}

static int measure_fdatasync(const char *path, size_t bytes, double seconds)
{
    int64_t *took_us = calloc(APPENDS_MAX, sizeof *took_us);
    char *data = calloc(1, bytes);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_TRUNC | O_CLOEXEC, 0600);
    if (!took_us || !data || fd < 0)
        die(path, strerror(errno));

    size_t count = 0;
    int64_t end_us = clock_monotonic_us() + (int64_t)(seconds * MICROS_A_SECOND), begin_us;
    while ((begin_us = clock_monotonic_us()) < end_us && count < APPENDS_MAX) {
        if (write(fd, data, bytes) != (ssize_t)bytes || fdatasync(fd) < 0)
            die(path, strerror(errno));
        took_us[count++] = clock_monotonic_us() - begin_us;
    }
    qsort(took_us, count, sizeof *took_us, by_value);
    if (count > 0)
        printf("{\"appends\":%zu,\"p50_us\":%" PRId64 ",\"p99_us\":%" PRId64 "}\n", count,
               took_us[count / 2], took_us[count * 99 / 100]);
    (void)close(fd);
    (void)unlink(path);
    free(data);
    free(took_us);
    return 0;
}

/* What the servers share; everything but the reply belongs to the loop's thread once it runs. */
struct server {
    struct config *config;
    struct policy *policy;
    struct jwks *keys;
    struct jws_context *context;
    struct judge_rules rules;
    struct outbox *outbox;
    struct http_reply *ok, *refused, *failed;
};

static const struct jwk *find_key(void *context, const char *kid, size_t kid_bytes,
                                  enum key_trust *ret_trust)
{
    const struct server *server = context;
    const struct jwk *key = jwks_find(server->keys, kid, kid_bytes);
    *ret_trust = key ? KEY_TRUST_FULL : KEY_TRUST_NONE;
    return key;
}

static bool audience_known(void *context, const char *client_id)
{
    const struct server *server = context;
    return policy_find(server->policy, client_id) != NULL;
}

static void wait_for_body(void *context, struct http_request *request)
{
    (void)context;
    (void)request;
}

static void forget(void *context, struct http_request *request)
{
    (void)context;
    (void)request;
}

static void answer_at_once(void *context, struct http_request *request)
{
    const struct server *server = context;
    http_request_answer(request, server->ok);
}

static void judge(struct server *server, struct http_request *request, struct judgement *ret_result)
{
    size_t bytes;
    const char *body = http_request_body(request, &bytes);
    server->rules.now_s = clock_wall_ms() / 1000;
    judge_body(server->context, &server->rules, body, bytes, ret_result);
}

static void judge_then_answer(void *context, struct http_request *request)
{
    struct server *server = context;
    struct judgement judgement;

    judge(server, request, &judgement);
    http_request_answer(request,
                        judgement.verdict == VERDICT_ACCEPTED ? server->ok : server->refused);
    judgement_release(&judgement);
}

/* The notification is in the file before this returns. */
static bool commit_one(struct server *server, struct delivery *delivery)
{
    bool ok = outbox_begin(server->outbox) == OUTBOX_ERROR_NONE &&
              outbox_add(server->outbox, delivery) == OUTBOX_ERROR_NONE &&
              outbox_commit(server->outbox) == OUTBOX_ERROR_NONE;
    if (!ok)
        outbox_rollback(server->outbox);
    return ok;
}

static void commit_then_answer(void *context, struct http_request *request)
{
    struct server *server = context;
    struct judgement judgement;

    judge(server, request, &judgement);
    if (judgement.verdict != VERDICT_ACCEPTED) {
        http_request_answer(request, server->refused);
        judgement_release(&judgement);
        return;
    }
    size_t bytes;
    const char *body = http_request_body(request, &bytes);
    const struct config_app *app = policy_find(server->policy, judgement.notification.aud);
    struct delivery *delivery =
        delivery_new(&judgement, server->policy, app, body, bytes, clock_wall_ms());
    bool ok = delivery && commit_one(server, delivery);
    http_request_answer(request, ok ? server->ok : server->failed);
    delivery_free(delivery);
    judgement_release(&judgement);
}

static void prepare(struct server *server, const char *file, bool stores)
{
    char why[OUTBOX_WHY_BYTES];

    if (config_load(file, stderr, &server->config) < 0)
        die(file, "is not usable");
    if (server->config->keys_source != CONFIG_KEYS_FILE)
        die(file, "keys must be a file: here");
    server->keys = read_keys(server->config->keys_path);
    if (policy_new(server->config, &server->policy) < 0 || jws_context_new(&server->context) < 0 ||
        http_reply_new(200, NULL, NULL, 0, NULL, &server->ok) < 0 ||
        http_reply_new(400, NULL, NULL, 0, NULL, &server->refused) < 0 ||
        http_reply_new(503, NULL, NULL, 0, NULL, &server->failed) < 0)
        die("serve", "out of memory");
    server->rules = (struct judge_rules){
        .keys = {.find = find_key, .context = server, .usable = true},
        .audience_known = audience_known,
        .audience_context = server,
        .issuers = server->config->issuers,
        .issuer_count = server->config->issuer_count,
        .leeway_s = server->config->limits.leeway_s,
    };
    if (stores && outbox_open(server->config->database, clock_wall_ms(), &server->outbox, why) < 0)
        die(server->config->database, why);
}

static void release(struct server *server)
{
    char why[OUTBOX_WHY_BYTES];
    if (outbox_close(server->outbox, why) < 0)
        die("close", why);
    http_reply_free(server->ok);
    http_reply_free(server->refused);
    http_reply_free(server->failed);
    jws_context_free(server->context);
    jwks_free(server->keys);
    policy_unref(server->policy);
    config_free(server->config);
}

static int serve(const char *mode, const char *file)
{
    struct http_service service = {.on_headers = wait_for_body, .on_over = forget};
    struct server server = {0};
    struct http_server *http = NULL;
    struct http_loop *loop = NULL;
    char why[256];
    sigset_t stop;
    int signal_number;

    if (strcmp(mode, "http") == 0)
        service.on_body = answer_at_once;
    else if (strcmp(mode, "verify") == 0)
        service.on_body = judge_then_answer;
    else if (strcmp(mode, "commit") == 0)
        service.on_body = commit_then_answer;
    else
        die(mode, "is neither http, verify nor commit");
    (void)sigemptyset(&stop);
    (void)sigaddset(&stop, SIGTERM);
    (void)sigaddset(&stop, SIGINT);
    (void)pthread_sigmask(SIG_BLOCK, &stop, NULL);

    prepare(&server, file, service.on_body == commit_then_answer);
    const struct config_limits *set = &server.config->limits;
    struct http_limits limits = {.connections = set->connections,
                                 .body_bytes = set->body_bytes,
                                 .headers_ms = set->headers_s * 1000,
                                 .request_ms = set->request_s * 1000,
                                 .idle_ms = set->idle_s * 1000};
    int fd = http_listen(&server.config->listen, 0666, why);
    if (fd < 0)
        die(server.config->listen.text, why);
    if (http_loop_new("ceiling", &loop) < 0 ||
        http_loop_serve(loop, fd, &limits, false, &service, &server, &http) < 0 ||
        http_loop_start(loop) < 0)
        die("serve", "the loop does not start");
    puts("ready");
    (void)fflush(stdout);
    (void)sigwait(&stop, &signal_number);
    http_loop_free(loop);
    (void)close(fd);
    release(&server);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "rsa") == 0)
        return measure_rsa(argv[2], argv[3], strtod(argv[4], NULL));
    if (argc == 5 && strcmp(argv[1], "fdatasync") == 0)
        return measure_fdatasync(argv[2], strtoul(argv[3], NULL, 10), strtod(argv[4], NULL));
    if (argc == 4 && strcmp(argv[1], "serve") == 0)
        return serve(argv[2], argv[3]);
    fprintf(stderr, "usage: ceiling rsa JWKS BODIES SECONDS\n"
                    "       ceiling fdatasync FILE BYTES SECONDS\n"
                    "       ceiling serve http|verify|commit CONFIG\n");
    return 2;
}
