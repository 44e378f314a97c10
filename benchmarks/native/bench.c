/* See bench.h. */
#include "bench.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEFINE(result, name, arguments) result(*name) arguments;
ZMQ_FUNCTIONS(DEFINE)
#undef DEFINE

static int argument_count;
static char **arguments;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void load_libzmq(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fail("libzmq cannot be opened (lib=PATH)", dlerror());
#define LOOK_UP(result, name, arguments) \
    *(void **)&name = dlsym(library, #name); \
    if (!name) \
        fail(#name, "missing in this libzmq");
    ZMQ_FUNCTIONS(LOOK_UP)
#undef LOOK_UP
}

void *begin(int argc, char **argv) {
    argument_count = argc;
    arguments = argv;
    load_libzmq(text("lib", ""));
    void *context = zmq_ctx_new();
    if (!context)
        fail("zmq_ctx_new", zmq_strerror(zmq_errno()));
    return context;
}

const char *text(const char *name, const char *otherwise) {
    size_t length = strlen(name);
    for (int i = 1; i < argument_count; i++)
        if (!strncmp(arguments[i], name, length) && arguments[i][length] == '=')
            return arguments[i] + length + 1;
    return otherwise;
}

double number(const char *name, double otherwise) {
    const char *value = text(name, NULL);
    return value ? atof(value) : otherwise;
}

static const char *prefixed(const char *prefix, const char *name) {
    char full[64];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return text(full, NULL);
}

static void set_key(void *socket, int option, const char *key) {
    checked(zmq_setsockopt(socket, option, key, strlen(key) + 1), "CURVE key");
}

static void secure(void *socket, const char *prefix) {
    const char *server_secret = prefixed(prefix, "server_secret");
    const char *server_key = prefixed(prefix, "server_key");
    if (server_secret) {
        int yes = 1;
        checked(zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &yes, sizeof yes), "CURVE_SERVER");
        set_key(socket, ZMQ_CURVE_SECRETKEY, server_secret);
    }
    if (server_key) {
        set_key(socket, ZMQ_CURVE_SERVERKEY, server_key);
        set_key(socket, ZMQ_CURVE_PUBLICKEY, prefixed(prefix, "public"));
        set_key(socket, ZMQ_CURVE_SECRETKEY, prefixed(prefix, "secret"));
    }
}

void *open_socket(void *context, int type, const char *prefix) {
    void *socket = zmq_socket(context, type);
    if (!socket)
        fail("zmq_socket", zmq_strerror(zmq_errno()));
    secure(socket, prefix);
    const char *hwm = prefixed(prefix, "hwm");
    if (hwm) {
        int messages = atoi(hwm);
        checked(zmq_setsockopt(socket, ZMQ_SNDHWM, &messages, sizeof messages), "SNDHWM");
        checked(zmq_setsockopt(socket, ZMQ_RCVHWM, &messages, sizeof messages), "RCVHWM");
    }
    const char *bind_to = prefixed(prefix, "bind");
    const char *connect_to = prefixed(prefix, "connect");
    if (bind_to) {
        char endpoint[256];
        size_t size = sizeof endpoint;
        checked(zmq_bind(socket, bind_to), bind_to);
        checked(zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &size), "LAST_ENDPOINT");
        say("bound %s%s%s", prefix, *prefix ? " " : "", endpoint);
    }
    if (connect_to)
        checked(zmq_connect(socket, connect_to), connect_to);
    if (!bind_to && !connect_to)
        fail(prefix, "needs bind=ENDPOINT or connect=ENDPOINT");
    return socket;
}

int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

int checked(int result, const char *what) {
    if (result < 0)
        fail(what, zmq_strerror(zmq_errno()));
    return result;
}

void say(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vprintf(format, values);
    va_end(values);
    putchar('\n');
    fflush(stdout);
}

int told_to_go(void) {
    char line[64];
    return fgets(line, sizeof line, stdin) != NULL;
}
