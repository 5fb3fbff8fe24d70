/* A closed-loop load: each connection sends its request again as soon as the answer has come.
 *
 *     load PORT PATH CONNECTIONS SECONDS WARM_UP_SECONDS HEADERS_FILE BODY_FILE
 *
 * Connections begin one after the other over the warm-up: paced streams that began together would beat together.
 * Writes one JSON object: answers per second, and quantiles in microseconds of the whole answer, of the first text and
 * of the time that texts "t=<nanoseconds>;" were on their way. One thread for each connection.
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

#define BUFFER (1 << 18)

typedef struct {
    long *values;
    size_t count, room;
} Sample;

typedef struct {
    long begins;
    Sample whole, first, transit;
    long errors, answers;
    char wrong[200];
} Result;

static int port;
static char *request;
static size_t request_size;
static long starts, ends;

static long now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000L + at.tv_nsec;
}

static void add(Sample *sample, long value) {
    if (sample->count == sample->room) {
        sample->room = sample->room ? 2 * sample->room : 1024;
        sample->values = realloc(sample->values, sample->room * sizeof(long));
    }
    sample->values[sample->count++] = value;
}

static int dial(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) {
        close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct timeval limit = {.tv_sec = 60};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

/* Reads one answer; 0: complete, 200 and more to come on this connection. */
static int read_answer(int fd, char *buffer, Result *result, long sent, int counts) {
    size_t have = 0, scanned = 0;
    long body_at = -1, length = -1;
    int seen = 0;
    for (;;) {
        ssize_t got = recv(fd, buffer + have, BUFFER - 1 - have, 0);
        if (got <= 0) return -1;
        long at = now();
        have += (size_t)got;
        buffer[have] = 0;
        if (body_at < 0) {
            char *end = strstr(buffer, "\r\n\r\n");
            if (!end) continue;
            body_at = end + 4 - buffer;
            char *told = strcasestr(buffer, "content-length:");
            if (told && told < end) length = strtol(told + 15, NULL, 10);
            scanned = (size_t)body_at;
        }
        for (char *mark; (mark = strstr(buffer + scanned, "t=")) && strchr(mark, ';'); scanned = (size_t)(mark + 2 - buffer)) {
            long stamp = strtol(mark + 2, NULL, 10);
            if (stamp <= 0) continue;
            if (counts) {
                if (!seen) add(&result->first, at - sent);
                add(&result->transit, at - stamp);
            }
            seen = 1;
        }
        int complete = length >= 0 ? have >= (size_t)(body_at + length)
                                   : have - (size_t)body_at >= 5 && !memcmp(buffer + have - 5, "0\r\n\r\n", 5);
        if (!complete) {
            if (have > BUFFER - 8192) return -1;
            continue;
        }
        if (strncmp(buffer, "HTTP/1.1 200", 12)) {
            if (!result->wrong[0]) snprintf(result->wrong, sizeof result->wrong, "%.180s", buffer);
            return -1;
        }
        return 0;
    }
}

static void *load(void *argument) {
    Result *result = argument;
    char *buffer = malloc(BUFFER);
    int fd = -1;
    struct timespec begins = {.tv_sec = result->begins / 1000000000L, .tv_nsec = result->begins % 1000000000L};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &begins, NULL);
    while (now() < ends) {
        if (fd < 0 && (fd = dial()) < 0) {
            result->errors++;
            usleep(10000);
            continue;
        }
        long sent = now();
        int failed = send(fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size;
        failed = failed || read_answer(fd, buffer, result, sent, sent >= starts);
        long at = now();
        if (failed) {
            result->errors++;
            close(fd);
            fd = -1;
        } else if (sent >= starts && at <= ends) {
            result->answers++;
            add(&result->whole, at - sent);
        }
    }
    if (fd >= 0) close(fd);
    free(buffer);
    return NULL;
}

static int by_size(const void *a, const void *b) {
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

static void print_quantiles(const char *name, Result *results, int count, Sample (*of)(Result *)) {
    Sample all = {0};
    for (int n = 0; n < count; n++) {
        Sample one = of(&results[n]);
        for (size_t m = 0; m < one.count; m++) add(&all, one.values[m]);
    }
    qsort(all.values, all.count, sizeof(long), by_size);
    printf(", \"%s\": {\"count\": %zu", name, all.count);
    const double shares[] = {.5, .9, .99, .999};
    const char *names[] = {"p50", "p90", "p99", "p999"};
    for (int n = 0; n < 4 && all.count; n++)
        printf(", \"%s\": %.1f", names[n], (double)all.values[(size_t)(shares[n] * (double)(all.count - 1))] / 1000.0);
    printf("}");
    free(all.values);
}

static Sample whole_of(Result *result) { return result->whole; }
static Sample first_of(Result *result) { return result->first; }
static Sample transit_of(Result *result) { return result->transit; }

static char *read_file(const char *name) {
    FILE *file = fopen(name, "rb");
    if (!file) {
        perror(name);
        exit(2);
    }
    char *text = calloc(1, 1 << 16);
    if (fread(text, 1, (1 << 16) - 1, file) == 0 && ferror(file)) exit(2);
    fclose(file);
    return text;
}

int main(int count, char **arguments) {
    if (count != 8) {
        fprintf(stderr, "usage: load PORT PATH CONNECTIONS SECONDS WARM_UP_SECONDS HEADERS_FILE BODY_FILE\n");
        return 2;
    }
    port = atoi(arguments[1]);
    int connections = atoi(arguments[3]);
    double seconds = atof(arguments[4]), warm_up = atof(arguments[5]);
    char *headers = read_file(arguments[6]), *body = read_file(arguments[7]);
    request_size = (size_t)asprintf(&request,
                                    "POST %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
                                    "content-length: %zu\r\n%s\r\n%s",
                                    arguments[2], port, strlen(body), headers, body);
    signal(SIGPIPE, SIG_IGN);
    starts = now() + (long)(warm_up * 1e9);
    ends = starts + (long)(seconds * 1e9);
    Result *results = calloc((size_t)connections, sizeof(Result));
    pthread_t *threads = calloc((size_t)connections, sizeof(pthread_t));
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 17);
    for (int n = 0; n < connections; n++) results[n].begins = starts - (long)(warm_up * 1e9 * (1 - (double)n / connections));
    for (int n = 0; n < connections; n++) pthread_create(&threads[n], &small, load, &results[n]);
    long answers = 0, errors = 0;
    const char *wrong = "";
    for (int n = 0; n < connections; n++) {
        pthread_join(threads[n], NULL);
        answers += results[n].answers;
        errors += results[n].errors;
        if (results[n].wrong[0]) wrong = results[n].wrong;
    }
    if (errors) fprintf(stderr, "load: %ld errors; %s\n", errors, wrong);
    printf("{\"answers\": %ld, \"errors\": %ld, \"per_second\": %.1f", answers, errors, (double)answers / seconds);
    print_quantiles("whole", results, connections, whole_of);
    print_quantiles("first", results, connections, first_of);
    print_quantiles("transit", results, connections, transit_of);
    printf("}\n");
    return 0;
}
