/* The part of doctor that looks at the registered address from outside: names, TLS, and whether a
 * POST reaches the daemon unchanged. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/call.h"
#include "doctor.h"
#include "keys/fetch.h"
#include "listener/outcome_advice.h"
#include "support/clock.h"
#include "verifier/verdict.h"

#define SLOW_MS    3000
#define LARGE_BODY (60 * 1024)

/* ---- names ---- */

/* Addresses that nobody outside can reach. */
static bool private_address(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        uint32_t ip = ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr);

        return ip >> 24 == 127 || ip >> 24 == 10 || ip >> 20 == 0xAC1 || ip >> 16 == 0xC0A8 ||
               ip >> 16 == 0xA9FE || ip >> 22 == 0x191 || ip >> 24 == 0;
    }
    const struct in6_addr *ip = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(ip) || IN6_IS_ADDR_LINKLOCAL(ip) || (ip->s6_addr[0] & 0xFE) == 0xFC;
}

/* 0 or an errno. */
static int reach(const struct addrinfo *one)
{
    const struct timeval limit = {.tv_sec = DOCTOR_CALL_MS / 1000};
    int fd = socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int error = 0;

    if (fd < 0)
        return errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); /* connect's too */
    if (connect(fd, one->ai_addr, one->ai_addrlen) < 0)
        error = errno;
    close(fd);
    return error;
}

static void look_at_address(struct doctor *doctor, const char *check, const struct addrinfo *one)
{
    char text[INET6_ADDRSTRLEN] = "?";
    int error = reach(one);

    (void)getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
    if (error)
        doctor_tell(doctor, check, DOCTOR_FAIL,
                    "have the server listen there too, open the firewall, or take the record out "
                    "of the DNS",
                    "%s cannot be reached: %s", text, strerror(error));
    else if (private_address(one->ai_addr))
        doctor_tell(doctor, check, DOCTOR_WARN, "give the name a public address",
                    "%s answers, but no sender outside this network can reach it", text);
    else
        doctor_tell(doctor, check, DOCTOR_OK, NULL, "%s answers", text);
}

/* The number of addresses of a family. */
static unsigned look_at_family(struct doctor *doctor, const char *check, int family,
                               const struct call_url *url)
{
    const struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    unsigned count = 0;

    if (getaddrinfo(url->host, url->port, &hints, &list) != 0)
        return 0;
    for (const struct addrinfo *one = list; one; one = one->ai_next) {
        look_at_address(doctor, check, one);
        count++;
    }
    freeaddrinfo(list);
    return count;
}

static bool look_at_names(struct doctor *doctor, const struct call_url *url)
{
    unsigned four = look_at_family(doctor, "outside.ipv4", AF_INET, url);
    unsigned six = look_at_family(doctor, "outside.ipv6", AF_INET6, url);

    if (four + six == 0)
        doctor_tell(doctor, "outside.name", DOCTOR_FAIL,
                    "publish an A record, and correct the name in the portal", "%s has no address",
                    url->host);
    else if (four == 0)
        doctor_tell(doctor, "outside.ipv4", DOCTOR_WARN, "publish an A record too",
                    "%s has no IPv4 address; whether Apple sends over IPv6 is not known",
                    url->host);
    return four + six > 0;
}

/* ---- HTTP ---- */

int doctor_post(const struct doctor *doctor, const char *body, size_t body_bytes,
                struct call_reply *ret_reply, int64_t *ret_ms, char ret_why[CALL_WHY_BYTES])
{
    const struct call_request request = {
        .url = doctor->url,
        .method = body ? "POST" : "GET",
        .body = body,
        .body_bytes = body_bytes,
        .content_type = "application/json",
        .timeout_ms = DOCTOR_CALL_MS,
        .reply_max_bytes = DOCTOR_REPLY_MAX_BYTES,
        .ca_file = doctor->ca_file,
    };
    int64_t began_ms = clock_monotonic_ms();
    int error = call_send(&request, ret_reply, ret_why);

    *ret_ms = clock_monotonic_ms() - began_ms;
    return error;
}

bool doctor_answers(const struct call_reply *reply, enum verdict verdict)
{
    return reply->status == verdict_status(verdict) &&
           strncmp(reply->body, verdict_label(verdict), strlen(verdict_label(verdict))) == 0;
}

/* Which of its refusals the daemon answered; VERDICT_COUNT where it was not the daemon. */
static enum verdict refusal_of(const struct call_reply *reply)
{
    int verdict = 0;

    while (verdict < VERDICT_COUNT && (verdict_status((enum verdict)verdict) == 200 ||
                                       !doctor_answers(reply, (enum verdict)verdict)))
        verdict++;
    return (enum verdict)verdict;
}

const char *doctor_cure_of_call(int error)
{
    if (error == -ETIMEDOUT)
        return "see that the proxy passes the whole body that it announces (nginx: no "
               "proxy_pass_request_body off), and holds nothing back";
    return "see the checks above";
}

static const char *cure_of_status(unsigned status)
{
    switch (status) {
    case 301:
    case 302:
    case 303:
    case 307:
    case 308:
        return "register the address where this leads to: a POST must not be redirected";
    case 401:
    case 403:
        return "take authentication, allow-lists and bot protection away from this one path: "
               "Apple sends a signature, no password";
    case 404:
        return "correct the path: the proxy, `path` and the portal must agree";
    case 405:
        return "let the proxy pass POST";
    case 411:
        return "have the proxy buffer the request, so that it has a Content-Length";
    case 413:
        return "raise the proxy's limit for bodies to 64 KiB (nginx: client_max_body_size 64k)";
    case 429:
        return "take the rate limit away from this path, or make it larger than a burst of Apple's";
    case 502:
    case 503:
    case 504:
        return "start the daemon, and let the proxy's user connect to its socket";
    default:
        return "look at the proxy's log: who gave this answer?";
    }
}

void doctor_tell_answer(struct doctor *doctor, const char *check, const struct call_reply *reply,
                        enum verdict expected, const char *what)
{
    char location[256] = "";

    if (doctor_answers(reply, expected)) {
        doctor_tell(doctor, check, DOCTOR_OK, NULL, "%s reached the daemon, which answered %u %s",
                    what, reply->status, verdict_label(expected));
        return;
    }
    if (doctor_answers(reply, VERDICT_BAD_BODY)) {
        doctor_tell(doctor, check, DOCTOR_FAIL,
                    "have the proxy pass the body as it is, without filters in between",
                    "%s reached the daemon with another body than was sent", what);
        return;
    }
    if (refusal_of(reply) != VERDICT_COUNT)
        doctor_tell(doctor, check, DOCTOR_FAIL, outcome_advice(refusal_of(reply)),
                    "%s reached the daemon, which answered %u %s", what, reply->status,
                    verdict_label(refusal_of(reply)));
    else if (call_reply_header(reply, "Location", location, sizeof location) == 0)
        doctor_tell(doctor, check, DOCTOR_FAIL, cure_of_status(reply->status),
                    "%s was answered %u to %s", what, reply->status, location);
    else
        doctor_tell(doctor, check, DOCTOR_FAIL, cure_of_status(reply->status),
                    "%s did not reach the daemon: the answer was %u", what, reply->status);
}

static void look_at_get(struct doctor *doctor)
{
    struct call_reply reply = {0};
    char why[CALL_WHY_BYTES];
    int64_t ms;

    if (doctor_post(doctor, NULL, 0, &reply, &ms, why) < 0)
        doctor_tell(doctor, "outside.get", DOCTOR_FAIL, "see the checks above", "%s", why);
    else if (reply.status >= 300 && reply.status < 400)
        doctor_tell(doctor, "outside.get", DOCTOR_FAIL, cure_of_status(reply.status),
                    "a GET is redirected (%u)", reply.status);
    else if (reply.status == 405)
        doctor_tell(doctor, "outside.get", DOCTOR_OK, NULL, "a GET is answered 405, as it should");
    else
        doctor_tell(doctor, "outside.get", reply.status == 200 ? DOCTOR_WARN : DOCTOR_OK,
                    reply.status == 200 ? "see who answers there: the daemon says 405" : NULL,
                    "a GET is answered %u", reply.status);
    call_reply_release(&reply);
}

/* A body that only the daemon's verifier can refuse: well-formed, but no token. */
static bool look_at_post(struct doctor *doctor)
{
    static const char body[] = "{\"payload\":\"siwa-notifyd-doctor\"}";
    struct call_reply reply = {0};
    char why[CALL_WHY_BYTES];
    int64_t ms;
    bool reached;

    int error = doctor_post(doctor, body, sizeof body - 1, &reply, &ms, why);
    if (error < 0) {
        doctor_tell(doctor, "outside.post", DOCTOR_FAIL, doctor_cure_of_call(error), "%s", why);
        return false;
    }
    reached = doctor_answers(&reply, VERDICT_JWS_MALFORMED);
    doctor_tell_answer(doctor, "outside.post", &reply, VERDICT_JWS_MALFORMED, "an unsigned POST");
    if (reached)
        doctor_tell(doctor, "outside.time", ms > SLOW_MS ? DOCTOR_WARN : DOCTOR_OK,
                    ms > SLOW_MS ? "find what is slow between here and the daemon" : NULL,
                    "it was answered within %lld ms", (long long)ms);
    call_reply_release(&reply);
    return reached;
}

static void look_at_large_post(struct doctor *doctor)
{
    static const char begin[] = "{\"payload\":\"", end[] = "\"}";
    struct call_reply reply = {0};
    char why[CALL_WHY_BYTES];
    char *body = malloc(LARGE_BODY);
    int64_t ms;

    if (!body)
        return;
    memset(body, 'a', LARGE_BODY);
    memcpy(body, begin, sizeof begin - 1);
    memcpy(body + LARGE_BODY - (sizeof end - 1), end, sizeof end - 1);
    if (doctor_post(doctor, body, LARGE_BODY, &reply, &ms, why) < 0)
        doctor_tell(doctor, "outside.large_body", DOCTOR_FAIL,
                    "raise the proxy's limit for bodies to 64 KiB", "%s", why);
    else
        doctor_tell_answer(doctor, "outside.large_body", &reply, VERDICT_JWS_MALFORMED,
                           "a POST of 60 KiB");
    call_reply_release(&reply);
    free(body);
}

static void look_at_path(struct doctor *doctor, const struct call_url *url)
{
    if (!doctor->config || strcmp(url->path, doctor->config->path) == 0)
        doctor_tell(doctor, "outside.path", DOCTOR_OK, NULL, "the path is %s", url->path);
    else
        doctor_tell(doctor, "outside.path", DOCTOR_WARN,
                    "make them one, unless the proxy rewrites it on purpose",
                    "the address has the path %.200s, the daemon's is %.200s", url->path,
                    doctor->config->path);
}

void doctor_outside(struct doctor *doctor)
{
    char why[CALL_WHY_BYTES] = "";
    struct call_url url;

    if (!doctor->url) {
        doctor_tell(doctor, "outside.url", DOCTOR_SKIP, "add --url https://HOST/PATH",
                    "nothing was looked at from outside");
        return;
    }
    if (fetch_init() != 0 || call_split_url(doctor->url, &url, why) < 0) {
        doctor_tell(doctor, "outside.url", DOCTOR_FAIL, "write it as https://HOST/PATH", "%s", why);
        return;
    }
    if (!url.https) {
        doctor_tell(doctor, "outside.url", DOCTOR_FAIL, "register an address with https://",
                    "Apple sends to https:// only");
        return;
    }
    look_at_path(doctor, &url);
    if (!look_at_names(doctor, &url))
        return;
    doctor_tls(doctor, &(struct doctor_address){.host = url.host, .port = url.port},
               doctor->ca_file, false);
    look_at_get(doctor);
    if (look_at_post(doctor))
        look_at_large_post(doctor);
    doctor_probe(doctor);
}
