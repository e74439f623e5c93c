/* llmload: a closed-loop load generator for OpenAI-style HTTP endpoints.
 *
 * C connections (HTTP/1.1 keep-alive, one thread, epoll) each send the same POST, read the whole response, and send it
 * again, until the time is over; what is open then is still read to its end. It costs about 6 us per request and
 * about 3 us per streamed event, so that on a small machine the figures are the server's and not its own.
 *
 *     llmload -p PORT -b BODY [-P /v1/chat/completions] [-c CONNECTIONS] [-d SECONDS] [-s] [-k KEY] [-H "name: value"]
 *
 *     -b  request body, or @FILE           -s  the response is a stream of server-sent events ending in [DONE]
 *     -k  sent as `Authorization: Bearer`  -H  one further header, may be repeated
 *
 * Prints one JSON object. Times are milliseconds, taken when epoll says that bytes are there:
 *     latency  from sending a request to the last byte of its response
 *     ttft     from sending a request to its first event with text
 *     itl      between two events with text of one stream; events that came in one read are 0 apart
 *     tpot     per stream: (last event - first event) / (tokens - 1)
 * `tokens` is what the responses' own `usage` says, else the number of events with text. Rates count only what ended
 * (requests) or came (tokens) before the time was over; everything else counts all requests.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"
#include "memory.h"
#include "response.h"

enum { READ_BYTES = 64 * 1024, EVENTS = 256, DRAIN_MS = 30000, HOPELESS_ERRORS = 200 };

static struct {
    int port, connections;
    double seconds;
    bool stream;
    const char *path, *body;
    struct buffer headers;
    struct buffer request; /* the bytes of the one request everybody sends */
} options = {.connections = 1, .seconds = 5, .path = "/v1/chat/completions"};

static struct {
    double end_ms;
    long ok, errors, not_200, incomplete, first_error_status;
    struct buffer error_text; /* the body of the first error */
    long in_time_requests, in_time_events, in_time_tokens; /* events: streamed, tokens: not streamed */
    long tokens, events, bytes;
    struct samples latency, ttft, itl, tpot;
} run;

/* One connection and the request it waits for. */
struct connection {
    int fd;
    bool busy;
    struct buffer input; /* received and not yet understood */
    struct response response;
    struct buffer line; /* the current line of the event stream, or the whole body where nothing is streamed */
    double sent_ms, first_ms, last_ms, now_ms;
    long events, tokens; /* with text; as `usage` says */
    bool done;           /* [DONE] came */
};

static int epoll_fd;

static void die(const char *what)
{
    fprintf(stderr, "llmload: %s: %s\n", what, strerror(errno));
    exit(2);
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* --- connections and requests ------------------------------------------------------------------------------------ */

static void open_connection(struct connection *c)
{
    int on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(options.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die("epoll_ctl");
    c->input.length = 0;
}

static void reopen_connection(struct connection *c)
{
    close(c->fd); /* which also takes it out of epoll */
    open_connection(c);
}

/* Send everything; the socket blocks, and requests are small. False: the server has closed the connection. */
static bool send_request(struct connection *c)
{
    size_t sent = 0;
    while (sent < options.request.length) {
        ssize_t n = send(c->fd, options.request.data + sent, options.request.length - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        sent += n;
    }
    return true;
}

static bool hopeless(void) { return run.ok == 0 && run.errors >= HOPELESS_ERRORS; }

static void next_request(struct connection *c)
{
    c->sent_ms = now_ms();
    c->busy = c->sent_ms < run.end_ms && !hopeless();
    if (!c->busy)
        return;
    begin_response(&c->response);
    c->line.length = 0;
    c->events = c->tokens = 0;
    c->done = false;
    if (!send_request(c)) { /* the server gave up an idle connection */
        reopen_connection(c);
        if (!send_request(c))
            die("send");
    }
}

/* --- what responses say ------------------------------------------------------------------------------------------ */

static void on_event(struct connection *c, const char *data)
{
    if (strstr(data, "[DONE]")) {
        c->done = true;
        return;
    }
    if (has_text(data)) {
        if (c->events++ == 0)
            c->first_ms = c->now_ms;
        else
            add_sample(&run.itl, c->now_ms - c->last_ms);
        c->last_ms = c->now_ms;
        run.in_time_events += c->now_ms < run.end_ms;
    }
    long tokens = completion_tokens(data);
    if (tokens > 0)
        c->tokens = tokens;
}

static void on_body(void *owner, const char *data, size_t length)
{
    struct connection *c = owner;
    run.bytes += length;
    if (!options.stream || c->response.status != 200) {
        append(&c->line, data, length);
        return;
    }
    while (length > 0) {
        const char *newline = memchr(data, '\n', length);
        size_t part = newline ? (size_t)(newline - data) : length;
        append(&c->line, data, part);
        if (newline != NULL) {
            if (strncmp(c->line.data, "data:", 5) == 0)
                on_event(c, c->line.data + 5);
            c->line.length = 0;
            part++;
        }
        data += part;
        length -= part;
    }
}

static void count_error(struct connection *c)
{
    if (c->response.status != 200)
        run.not_200++;
    else
        run.incomplete++;
    if (run.errors++ == 0) {
        run.first_error_status = c->response.status;
        append_text(&run.error_text, text_of(&c->line));
    }
}

static void count_success(struct connection *c)
{
    bool in_time = c->now_ms < run.end_ms;
    if (!options.stream) {
        c->tokens = completion_tokens(text_of(&c->line));
        run.in_time_tokens += in_time ? c->tokens : 0;
    }
    if (c->tokens == 0)
        c->tokens = c->events;
    run.ok++;
    run.in_time_requests += in_time;
    run.tokens += c->tokens;
    run.events += c->events;
    add_sample(&run.latency, c->now_ms - c->sent_ms);
    if (c->events > 0)
        add_sample(&run.ttft, c->first_ms - c->sent_ms);
    if (c->events > 0 && c->tokens > 1)
        add_sample(&run.tpot, (c->last_ms - c->first_ms) / (c->tokens - 1));
}

/* The response is over: all of it came, or the connection was lost under it (`whole` false). */
static void on_response(struct connection *c, bool whole, bool closed)
{
    if (whole && c->response.status == 200 && (!options.stream || c->done))
        count_success(c);
    else
        count_error(c);
    if (closed || c->response.closes)
        reopen_connection(c);
    next_request(c);
}

static void on_readable(struct connection *c)
{
    static char received[READ_BYTES];
    ssize_t n = recv(c->fd, received, sizeof received, MSG_DONTWAIT);
    if (n > 0 && c->busy) {
        append(&c->input, received, n);
        drop_front(&c->input, read_response(&c->response, c->input.data, c->input.length, on_body, c));
        if (c->response.part == COMPLETE)
            on_response(c, true, false);
    } else if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        if (c->busy)
            on_response(c, ends_with_connection(&c->response), true);
        else
            close(c->fd);
    }
}

/* --- the run ----------------------------------------------------------------------------------------------------- */

static int count_busy(const struct connection *connections)
{
    int busy = 0;
    for (int i = 0; i < options.connections; i++)
        busy += connections[i].busy;
    return busy;
}

static void run_load(struct connection *connections)
{
    struct epoll_event events[EVENTS];
    int busy;
    run.end_ms = now_ms() + options.seconds * 1e3;
    for (int i = 0; i < options.connections; i++) {
        open_connection(&connections[i]);
        next_request(&connections[i]);
    }
    while ((busy = count_busy(connections)) > 0) {
        if (now_ms() > run.end_ms + DRAIN_MS) {
            run.errors += busy;
            run.incomplete += busy;
            return;
        }
        int ready = epoll_wait(epoll_fd, events, EVENTS, 500);
        double at_ms = now_ms();
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            c->now_ms = at_ms;
            on_readable(c);
        }
    }
}

/* --- the report -------------------------------------------------------------------------------------------------- */

static void print_samples(const char *name, struct samples *samples)
{
    sort_samples(samples);
    printf(",\"%s\":{\"count\":%zu,\"p50\":%.4f,\"p95\":%.4f,\"p99\":%.4f,\"max\":%.4f}", name, samples->count,
           percentile(samples, .5), percentile(samples, .95), percentile(samples, .99), percentile(samples, 1));
}

static void print_json_string(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        putchar((unsigned char)*text < ' ' ? ' ' : *text);
    }
    putchar('"');
}

static double seconds_of(struct timeval time) { return time.tv_sec + time.tv_usec / 1e6; }

static void print_report(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    /* A busy server may join several tokens in one event. */
    double per_event = run.events ? (double)run.tokens / run.events : 0;
    double in_time_tokens = options.stream ? run.in_time_events * per_event : run.in_time_tokens;
    printf("{\"ok\":%ld,\"errors\":%ld", run.ok, run.errors);
    printf(",\"not_200\":%ld,\"incomplete\":%ld", run.not_200, run.incomplete);
    printf(",\"first_error_status\":%ld,\"error_text\":", run.first_error_status);
    print_json_string(text_of(&run.error_text));
    printf(",\"requests_per_s\":%.2f", run.in_time_requests / options.seconds);
    printf(",\"tokens_per_s\":%.2f", in_time_tokens / options.seconds);
    printf(",\"tokens\":%ld,\"events\":%ld,\"bytes\":%ld", run.tokens, run.events, run.bytes);
    printf(",\"cpu_s\":%.4f", seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime));
    print_samples("latency", &run.latency);
    print_samples("ttft", &run.ttft);
    print_samples("itl", &run.itl);
    print_samples("tpot", &run.tpot);
    printf("}\n");
}

/* --- options ----------------------------------------------------------------------------------------------------- */

static void read_file(const char *path, struct buffer *into)
{
    char part[4096];
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        die(path);
    for (size_t n; (n = fread(part, 1, sizeof part, file)) > 0;)
        append(into, part, n);
    fclose(file);
}

static void add_header(const char *prefix, const char *value)
{
    append_text(&options.headers, prefix);
    append_text(&options.headers, value);
    append_text(&options.headers, "\r\n");
}

static void read_options(int argc, char **argv)
{
    for (int option; (option = getopt(argc, argv, "p:c:d:sP:b:k:H:")) != -1;) {
        switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 'c': options.connections = atoi(optarg); break;
        case 'd': options.seconds = atof(optarg); break;
        case 's': options.stream = true; break;
        case 'P': options.path = optarg; break;
        case 'b': options.body = optarg; break;
        case 'k': add_header("Authorization: Bearer ", optarg); break;
        case 'H': add_header("", optarg); break;
        default: exit(1);
        }
    }
    if (options.port <= 0 || options.connections <= 0 || options.body == NULL) {
        fprintf(stderr, "usage: llmload -p PORT -b BODY|@FILE [-P PATH] [-c N] [-d SECONDS] [-s] [-k KEY] [-H HEADER]\n");
        exit(1);
    }
}

static void build_request(void)
{
    struct buffer body = {0};
    char head[1024];
    if (options.body[0] == '@')
        read_file(options.body + 1, &body);
    else
        append_text(&body, options.body);
    snprintf(head, sizeof head,
             "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n",
             options.path, options.port, body.length);
    append_text(&options.request, head);
    append_text(&options.request, text_of(&options.headers));
    append_text(&options.request, "\r\n");
    append(&options.request, body.data, body.length);
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    build_request();
    signal(SIGPIPE, SIG_IGN);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct connection *connections = calloc(options.connections, sizeof *connections);
    if (epoll_fd < 0 || connections == NULL)
        die("start");
    run_load(connections);
    print_report();
    return 0;
}
