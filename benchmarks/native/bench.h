/* What the benchmark programs share: libzmq bound by hand, arguments as name=value, sockets made from them.
 *
 * libzmq is opened by path (lib=...), so that every program runs on the very library that pyzmq ships, and no headers
 * are needed. The prototypes and constants below are those of zmq.h 4.3 (its ABI is stable since 4.2).
 */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>

typedef struct { unsigned char _[64]; } __attribute__((aligned(sizeof(void *)))) zmq_msg_t;
typedef void zmq_free_fn(void *data, void *hint);

enum { ZMQ_REQ = 3, ZMQ_REP = 4, ZMQ_DEALER = 5, ZMQ_ROUTER = 6, ZMQ_PULL = 7, ZMQ_PUSH = 8 };
enum { ZMQ_LINGER = 17, ZMQ_SNDHWM = 23, ZMQ_RCVHWM = 24, ZMQ_LAST_ENDPOINT = 32 };
enum { ZMQ_CURVE_SERVER = 47, ZMQ_CURVE_PUBLICKEY = 48, ZMQ_CURVE_SECRETKEY = 49, ZMQ_CURVE_SERVERKEY = 50 };

#define ZMQ_FUNCTIONS(X) \
    X(void *, zmq_ctx_new, (void)) \
    X(int, zmq_ctx_term, (void *context)) \
    X(void *, zmq_socket, (void *context, int type)) \
    X(int, zmq_close, (void *socket)) \
    X(int, zmq_setsockopt, (void *socket, int option, const void *value, size_t size)) \
    X(int, zmq_getsockopt, (void *socket, int option, void *value, size_t *size)) \
    X(int, zmq_bind, (void *socket, const char *endpoint)) \
    X(int, zmq_connect, (void *socket, const char *endpoint)) \
    X(int, zmq_msg_init, (zmq_msg_t *message)) \
    X(int, zmq_msg_init_size, (zmq_msg_t *message, size_t size)) \
    X(int, zmq_msg_send, (zmq_msg_t *message, void *socket, int flags)) \
    X(int, zmq_msg_recv, (zmq_msg_t *message, void *socket, int flags)) \
    X(int, zmq_msg_close, (zmq_msg_t *message)) \
    X(void *, zmq_msg_data, (zmq_msg_t *message)) \
    X(size_t, zmq_msg_size, (const zmq_msg_t *message)) \
    X(int, zmq_poll, (void *items, int count, long timeout_ms)) \
    X(int, zmq_proxy, (void *frontend, void *backend, void *capture)) \
    X(int, zmq_errno, (void)) \
    X(const char *, zmq_strerror, (int errnum))

#define DECLARE(result, name, arguments) extern result(*name) arguments;
ZMQ_FUNCTIONS(DECLARE)
#undef DECLARE

/* Remembers the arguments, opens libzmq (lib=PATH) and returns a fresh context. Any failure in this file ends the
 * program with a sentence on stderr. */
void *begin(int argc, char **argv);

const char *text(const char *name, const char *otherwise);
double number(const char *name, double otherwise);

/* A socket of this type, bound (bind=) or connected (connect=). CURVE server: server_secret=. CURVE client: server_key=,
 * public=, secret=. hwm= both ways. `prefix` stands before each of these names. A bound socket's endpoint is printed as a line
 * "bound PREFIX ENDPOINT", so that the driver may bind to port *. */
void *open_socket(void *context, int type, const char *prefix);

int64_t now_ns(void);

/* 0 or more is fine; below 0 ends the program with what libzmq says. */
int checked(int result, const char *what);

/* Prints the line to stdout at once. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Waits for a line on stdin: 1, or 0 when stdin was closed. */
int told_to_go(void);

/* Every test message carries its number at both ends; the last one says so in its top bit. */
#define LAST_MESSAGE (UINT64_C(1) << 63)
enum { SMALLEST_MESSAGE = 16 };

#endif
