#define _GNU_SOURCE
#include "response.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void begin_response(struct response *response) { *response = (struct response){.content_length = -1}; }

bool ends_with_connection(const struct response *response)
{
    return response->part == BODY && !response->chunked && response->content_length < 0;
}

static bool header_is(const char *line, const char *name, const char **value)
{
    size_t length = strlen(name);
    if (strncasecmp(line, name, length) != 0 || line[length] != ':')
        return false;
    *value = line + length + 1;
    *value += strspn(*value, " \t");
    return true;
}

/* Take status and headers from `head`, which ends in one "\r\n" and a zero. */
static void take_headers(struct response *response, const char *head)
{
    begin_response(response);
    response->status = strlen(head) > 9 ? atoi(head + 9) : 0;
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        const char *value;
        line += 2;
        if (header_is(line, "content-length", &value))
            response->content_length = atol(value);
        else if (header_is(line, "transfer-encoding", &value))
            response->chunked = strncasecmp(value, "chunked", 7) == 0;
        else if (header_is(line, "connection", &value))
            response->closes = strncasecmp(value, "close", 5) == 0;
    }
}

static size_t read_head(struct response *response, char *data, size_t length)
{
    char *end = memmem(data, length, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    end[2] = 0;
    take_headers(response, data);
    if (response->status >= 200) { /* 1xx: the real head follows */
        response->left = response->content_length;
        response->part = !response->chunked && response->content_length == 0 ? COMPLETE : BODY;
    }
    return end + 4 - data;
}

/* Read one line of the chunked encoding: a chunk's size, the empty line behind it, or a line of the trailer. */
static size_t read_chunk_line(struct response *response, char *data, size_t length)
{
    char *end = memmem(data, length, "\r\n", 2);
    if (end == NULL)
        return 0;
    if (response->chunk == CHUNK_SIZE) {
        response->left = strtol(data, NULL, 16);
        response->chunk = response->left > 0 ? CHUNK_DATA : TRAILER;
    } else if (response->chunk == CHUNK_END) {
        response->chunk = CHUNK_SIZE;
    } else if (end == data) { /* an empty line ends the trailer */
        response->part = COMPLETE;
    }
    return end + 2 - data;
}

static size_t read_counted(struct response *response, char *data, size_t length, body_sink *sink, void *owner)
{
    if (length > (size_t)response->left)
        length = response->left;
    sink(owner, data, length);
    response->left -= length;
    if (response->left == 0) {
        if (response->chunked)
            response->chunk = CHUNK_END;
        else
            response->part = COMPLETE;
    }
    return length;
}

static size_t read_body(struct response *response, char *data, size_t length, body_sink *sink, void *owner)
{
    if (response->chunked && response->chunk != CHUNK_DATA)
        return read_chunk_line(response, data, length);
    if (ends_with_connection(response)) {
        sink(owner, data, length);
        return length;
    }
    return read_counted(response, data, length, sink, owner);
}

size_t read_response(struct response *response, char *data, size_t length, body_sink *sink, void *owner)
{
    size_t used = 0;
    while (used < length && response->part != COMPLETE) {
        size_t n = response->part == HEAD ? read_head(response, data + used, length - used)
                                          : read_body(response, data + used, length - used, sink, owner);
        if (n == 0)
            break;
        used += n;
    }
    return used;
}
