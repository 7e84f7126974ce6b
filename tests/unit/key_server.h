/*
 * key_server: tests/tools/key_server.py as a child of a test program. Header only.
 *
 * Started once for the whole program; the child ends when its standard input does, so also when the
 * program dies.
 */
#ifndef SIWA_TESTS_KEY_SERVER_H
#define SIWA_TESTS_KEY_SERVER_H

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEY_SERVER_PORTS_MAX 16

struct key_server {
    pid_t pid;
    int input;
    char folder[64];
    char ca_file[128];
    size_t count;
    struct {
        char name[32];
        unsigned port;
    } ports[KEY_SERVER_PORTS_MAX];
};

#define KEY_SERVER_NEEDS(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "key_server.h:%d: %s does not hold\n", __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

static inline void key_server_exec(const char *folder, int input, int output)
{
    KEY_SERVER_NEEDS(dup2(input, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0);
    execlp("python3", "python3", "tests/tools/key_server.py", folder, (char *)NULL);
    _exit(127);
}

/* Starts the server and waits until it is ready. Run from the folder of the repository. */
static inline struct key_server key_server_start(void)
{
    struct key_server server = {.folder = "/tmp/siwa-key-server-XXXXXX"};
    int input[2], output[2];
    KEY_SERVER_NEEDS(mkdtemp(server.folder) != NULL);
    KEY_SERVER_NEEDS(pipe2(input, O_CLOEXEC) == 0 && pipe2(output, O_CLOEXEC) == 0);
    server.pid = fork();
    KEY_SERVER_NEEDS(server.pid >= 0);
    if (server.pid == 0)
        key_server_exec(server.folder, input[0], output[1]);
    close(input[0]);
    close(output[1]);
    server.input = input[1];

    FILE *lines = fdopen(output[0], "r");
    char line[256], name[32], value[128];
    bool ready = false;
    KEY_SERVER_NEEDS(lines != NULL);
    while (!ready && fgets(line, sizeof(line), lines) != NULL) {
        ready = strcmp(line, "ready\n") == 0;
        if (ready || sscanf(line, "%31s %127s", name, value) != 2)
            continue;
        if (strcmp(name, "ca_file") == 0) {
            strcpy(server.ca_file, value);
            continue;
        }
        KEY_SERVER_NEEDS(server.count < KEY_SERVER_PORTS_MAX);
        strcpy(server.ports[server.count].name, name);
        server.ports[server.count++].port = (unsigned)strtoul(value, NULL, 10);
    }
    KEY_SERVER_NEEDS(ready);
    fclose(lines);
    return server;
}

static inline void key_server_stop(struct key_server *server)
{
    char command[96];
    int status;
    close(server->input);
    KEY_SERVER_NEEDS(waitpid(server->pid, &status, 0) == server->pid);
    snprintf(command, sizeof(command), "rm -rf '%s'", server->folder);
    KEY_SERVER_NEEDS(system(command) == 0);
}

/* The port of this name, or 0 where this machine cannot serve it. */
static inline unsigned key_server_port(const struct key_server *server, const char *name)
{
    for (size_t i = 0; i < server->count; i++)
        if (strcmp(server->ports[i].name, name) == 0)
            return server->ports[i].port;
    return 0;
}

#endif
