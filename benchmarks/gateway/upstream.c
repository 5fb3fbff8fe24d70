/* A model server that costs next to nothing: OpenAI's chat completions, whole or streamed at a fixed pace.
 *
 *     upstream PORT CHUNKS INTERVAL_MICROSECONDS
 *
 * Each streamed chunk's text is "t=<nanoseconds of the monotonic clock>;", so that whoever receives it on the same
 * machine knows how long it was on its way. One thread for each connection.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (1 << 20)

static int chunks, interval_us;

static int send_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent <= 0) return -1;
        data += sent;
        size -= (size_t)sent;
    }
    return 0;
}

static int send_chunk(int fd, const char *event) {
    char out[1024];
    int size = snprintf(out, sizeof out, "%zx\r\n%s\r\n", strlen(event), event);
    return send_all(fd, out, (size_t)size);
}

static void add_microseconds(struct timespec *at, long us) {
    at->tv_nsec += us * 1000L;
    at->tv_sec += at->tv_nsec / 1000000000L;
    at->tv_nsec %= 1000000000L;
}

static int answer_stream(int fd) {
    static const char head[] =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    char event[768];
    struct timespec due, now;
    if (send_all(fd, head, sizeof head - 1)) return -1;
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (int n = 0; n < chunks; n++) {
        if (interval_us) {
            add_microseconds(&due, interval_us);
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        snprintf(event, sizeof event,
                 "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":["
                 "{\"index\":0,\"delta\":{\"content\":\"t=%ld;\"},\"finish_reason\":null}]}\n\n",
                 now.tv_sec * 1000000000L + now.tv_nsec);
        if (send_chunk(fd, event)) return -1;
    }
    snprintf(event, sizeof event,
             "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":["
             "{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
             "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[],"
             "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":%d,\"total_tokens\":%d,"
             "\"completion_tokens_details\":{\"reasoning_tokens\":0}}}\n\ndata: [DONE]\n\n",
             chunks, chunks + 9);
    if (send_chunk(fd, event)) return -1;
    return send_all(fd, "0\r\n\r\n", 5);
}

static int answer_whole(int fd) {
    char body[1024], out[1536];
    int size = snprintf(body, sizeof body,
                        "{\"id\":\"c\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"choices\":["
                        "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The answer is 7.\"},"
                        "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":%d,"
                        "\"total_tokens\":%d,\"completion_tokens_details\":{\"reasoning_tokens\":0}}}",
                        chunks, chunks + 9);
    size = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s",
                    size, body);
    return send_all(fd, out, (size_t)size);
}

/* Serves requests until the client leaves. */
static void *serve(void *argument) {
    int fd = (int)(long)argument;
    char *buffer = malloc(BUFFER + 1);
    size_t have = 0;
    for (;;) {
        buffer[have] = 0;
        char *end = strstr(buffer, "\r\n\r\n");
        if (end) {
            char *length = strcasestr(buffer, "content-length:");
            size_t body = length && length < end ? strtoul(length + 15, NULL, 10) : 0;
            size_t whole = (size_t)(end + 4 - buffer) + body;
            if (whole > BUFFER) break;
            if (have >= whole) {
                char kept = buffer[whole];
                buffer[whole] = 0;
                int streams = strstr(end, "\"stream\":true") || strstr(end, "\"stream\": true");
                buffer[whole] = kept;
                if (streams ? answer_stream(fd) : answer_whole(fd)) break;
                memmove(buffer, buffer + whole, have - whole);
                have -= whole;
                continue;
            }
        }
        ssize_t got = recv(fd, buffer + have, BUFFER - have, 0);
        if (got <= 0) break;
        have += (size_t)got;
    }
    free(buffer);
    close(fd);
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 4) {
        fprintf(stderr, "usage: upstream PORT CHUNKS INTERVAL_MICROSECONDS\n");
        return 2;
    }
    chunks = atoi(arguments[2]);
    interval_us = atoi(arguments[3]);
    signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(arguments[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
        perror("upstream");
        return 1;
    }
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 17);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        pthread_t thread;
        if (pthread_create(&thread, &small, serve, (void *)(long)fd)) close(fd);
        else pthread_detach(thread);
    }
}
