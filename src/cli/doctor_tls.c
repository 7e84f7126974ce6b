/* The part of doctor that looks at a server's TLS as a strict client sees it. */
#include <errno.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "doctor.h"

#define DAYS_WARN    14
#define STRICT_LEVEL 2 /* of OpenSSL: 112 bits, no SHA-1 */

/* What the checks are called; versions of the key server are not looked at. */
struct names {
    const char *version, *chain, *certificate, *tls12, *old;
};
static const struct names outside_names = {"outside.tls", "outside.chain", "outside.certificate",
                                           "outside.tls12", "outside.old_tls"};
static const struct names key_names = {"keyserver.tls", "keyserver.chain", "keyserver.certificate",
                                       NULL, NULL};

static int connect_to(const struct doctor_address *address, char ret_why[DOCTOR_TEXT_BYTES])
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    const struct timeval limit = {.tv_sec = DOCTOR_CALL_MS / 1000};
    struct addrinfo *list = NULL;
    int error = getaddrinfo(address->host, address->port, &hints, &list);
    int fd = -1;

    if (error) {
        (void)snprintf(ret_why, DOCTOR_TEXT_BYTES, "%s: %s", address->host, gai_strerror(error));
        return -1;
    }
    (void)snprintf(ret_why, DOCTOR_TEXT_BYTES, "%s has no address", address->host);
    for (const struct addrinfo *one = list; one && fd < 0; one = one->ai_next) {
        fd = socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC, one->ai_protocol);
        if (fd < 0)
            continue;
        /* the time limit of sending is that of connecting too: socket(7) */
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        if (connect(fd, one->ai_addr, one->ai_addrlen) == 0)
            break;
        (void)snprintf(ret_why, DOCTOR_TEXT_BYTES, "%s port %s: %s", address->host, address->port,
                       strerror(errno));
        close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    return fd;
}

/* One connection with its handshake. */
struct visit {
    SSL_CTX *context;
    SSL *ssl;
    int fd;
    bool trusting;          /* somebody: the authorities could be read */
    bool connected, shaken; /* hands */
    char why[DOCTOR_TEXT_BYTES];
};

static void visit_release(struct visit *visit)
{
    SSL_free(visit->ssl);
    SSL_CTX_free(visit->context);
    if (visit->fd >= 0)
        close(visit->fd);
}

/* The chain is looked at here, not by the handshake, so that a bad one can still be described. */
static bool prepare(struct visit *visit, const struct doctor_address *address, const char *ca_file,
                    int highest)
{
    bool trusted;

    visit->context = SSL_CTX_new(TLS_client_method());
    if (!visit->context)
        return false;
    trusted = ca_file[0] != '\0' ? SSL_CTX_load_verify_file(visit->context, ca_file) == 1
                                 : SSL_CTX_set_default_verify_paths(visit->context) == 1;
    if (!trusted) {
        (void)snprintf(visit->why, sizeof visit->why, "%.300s: no authorities can be read",
                       ca_file);
        return false;
    }
    visit->trusting = true;
    SSL_CTX_set_verify(visit->context, SSL_VERIFY_NONE, NULL);
    if (highest != 0 && SSL_CTX_set_max_proto_version(visit->context, highest) != 1)
        return false;
    bool weak = highest != 0 && highest < TLS1_2_VERSION; /* on purpose */
    SSL_CTX_set_security_level(visit->context, weak ? 0 : STRICT_LEVEL);
    if (weak && SSL_CTX_set_min_proto_version(visit->context, TLS1_VERSION) != 1)
        return false;
    visit->ssl = SSL_new(visit->context);
    return visit->ssl && SSL_set_tlsext_host_name(visit->ssl, address->host) == 1;
}

/* Connects and shakes hands with at most this version, 0 for any. */
static void visit(const struct doctor_address *address, const char *ca_file, int highest,
                  struct visit *ret_visit)
{
    char reason[256] = "";

    *ret_visit = (struct visit){.fd = -1, .why = "the TLS library failed"};
    if (!prepare(ret_visit, address, ca_file, highest))
        return;
    ret_visit->fd = connect_to(address, ret_visit->why);
    ret_visit->connected = ret_visit->fd >= 0;
    if (!ret_visit->connected || SSL_set_fd(ret_visit->ssl, ret_visit->fd) != 1)
        return;
    ERR_clear_error();
    ret_visit->shaken = SSL_connect(ret_visit->ssl) == 1;
    if (ret_visit->shaken)
        return;
    unsigned long error = ERR_get_error();
    const char *text = error ? ERR_reason_error_string(error) : NULL;
    (void)snprintf(reason, sizeof reason, "%s", text ? text : "the connection was closed");
    (void)snprintf(ret_visit->why, sizeof ret_visit->why, "%s port %s: %s", address->host,
                   address->port, reason);
}

/* ---- the certificate ---- */

static bool name_matches(X509 *leaf, const char *host)
{
    return X509_check_ip_asc(leaf, host, 0) == 1 || X509_check_host(leaf, host, 0, 0, NULL) == 1;
}

static void tell_certificate(struct doctor *doctor, const struct names *names, X509 *leaf,
                             const char *host)
{
    int days = 0, seconds = 0;

    if (!name_matches(leaf, host)) {
        doctor_tell(doctor, names->certificate, DOCTOR_FAIL,
                    "get a certificate with this name among its subjectAltName",
                    "the certificate is not for %s", host);
        return;
    }
    if (ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(leaf)) != 1) {
        doctor_tell(doctor, names->certificate, DOCTOR_FAIL, "get another one",
                    "its end cannot be read");
        return;
    }
    enum doctor_state state = days < 0 || seconds < 0 ? DOCTOR_FAIL
                              : days < DAYS_WARN      ? DOCTOR_WARN
                                                      : DOCTOR_OK;
    doctor_tell(doctor, names->certificate, state,
                state == DOCTOR_OK ? NULL : "renew it, and see why that did not happen by itself",
                state == DOCTOR_FAIL ? "the certificate for %s expired %d days ago"
                                     : "the certificate is for %s and has %d days left",
                host, days < 0 ? -days : days);
}

static const char *cure_of_chain(int error)
{
    switch (error) {
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        return "have the server send its intermediate certificates too (fullchain.pem); a "
               "private authority is not trusted by Apple";
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        return "get a certificate of a public authority: Apple trusts no other";
    case X509_V_ERR_CA_MD_TOO_WEAK:
        return "get a certificate that is signed with SHA-2 throughout";
    case X509_V_ERR_CERT_HAS_EXPIRED:
        return "renew it, and see why that did not happen by itself";
    default:
        return "get a certificate of a public authority, and send the whole chain";
    }
}

/* Verified as of now, with what the server sent and the authorities that are trusted: what a
 * browser fetches or remembers to mend a chain does not count. */
static void tell_chain(struct doctor *doctor, const struct names *names, SSL *ssl)
{
    long error = SSL_get_verify_result(ssl);

    if (error != X509_V_OK)
        doctor_tell(doctor, names->chain, DOCTOR_FAIL, cure_of_chain((int)error),
                    "a strict client does not trust it: %s", X509_verify_cert_error_string(error));
    else
        doctor_tell(doctor, names->chain, DOCTOR_OK, NULL,
                    "complete and trusted, %d certificates, signed with SHA-2",
                    sk_X509_num(SSL_get_peer_cert_chain(ssl)));
}

/* ---- versions ---- */

static void look_at_tls12(struct doctor *doctor, const struct names *names,
                          const struct doctor_address *address, const char *ca_file)
{
    __attribute__((cleanup(visit_release))) struct visit second;

    visit(address, ca_file, TLS1_2_VERSION, &second);
    if (second.shaken)
        doctor_tell(doctor, names->tls12, DOCTOR_OK, NULL, "TLS 1.2 is taken");
    else
        doctor_tell(doctor, names->tls12, DOCTOR_FAIL, "allow TLS 1.2 beside 1.3",
                    "TLS 1.2 is refused, and a sender may know no other: %s", second.why);
}

static void look_at_old_tls(struct doctor *doctor, const struct names *names,
                            const struct doctor_address *address, const char *ca_file)
{
    __attribute__((cleanup(visit_release))) struct visit third;

    visit(address, ca_file, TLS1_1_VERSION, &third);
    if (third.shaken)
        doctor_tell(doctor, names->old, DOCTOR_WARN, "refuse what is older than TLS 1.2",
                    "%s is taken, which nobody should use any more", SSL_get_version(third.ssl));
    else if (third.connected)
        doctor_tell(doctor, names->old, DOCTOR_OK, NULL, "TLS 1.1 and older are refused");
    else
        doctor_tell(doctor, names->old, DOCTOR_SKIP, NULL, "%s", third.why);
}

/* Whether the server speaks TLS at all. Its connection is over before another one is tried. */
static bool look_at_first(struct doctor *doctor, const struct names *names,
                          const struct doctor_address *address, const char *ca_file,
                          enum doctor_state without)
{
    __attribute__((cleanup(visit_release))) struct visit first;

    visit(address, ca_file, 0, &first);
    X509 *leaf = first.shaken ? SSL_get0_peer_certificate(first.ssl) : NULL;
    if (!leaf) {
        doctor_tell(doctor, names->version, without,
                    !first.trusting   ? "name a file of certificates in PEM that may be read"
                    : first.connected ? "have the server speak TLS 1.2 and 1.3 on this port"
                                      : "have the server listen there, and the firewall let it",
                    "no TLS: %s", first.why);
        return false;
    }
    doctor_tell(doctor, names->version, DOCTOR_OK, NULL, "%s, %s", SSL_get_version(first.ssl),
                SSL_get_cipher_name(first.ssl));
    tell_certificate(doctor, names, leaf, address->host);
    tell_chain(doctor, names, first.ssl);
    return true;
}

void doctor_tls(struct doctor *doctor, const struct doctor_address *address, const char *ca_file,
                bool key_server)
{
    const struct names *names = key_server ? &key_names : &outside_names;

    /* whether the key server can be reached is judged by fetching from it */
    if (!look_at_first(doctor, names, address, ca_file, key_server ? DOCTOR_WARN : DOCTOR_FAIL) ||
        key_server)
        return;
    look_at_tls12(doctor, names, address, ca_file);
    look_at_old_tls(doctor, names, address, ca_file);
}
