/* HTTP/1.1 responses, read piece by piece as they come: Content-Length, chunked, or until the server closes. */
#ifndef RESPONSE_H
#define RESPONSE_H

#include <stdbool.h>
#include <stddef.h>

enum part { HEAD, BODY, COMPLETE };
enum chunk { CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER };

struct response {
    enum part part; /* what comes next */
    int status;     /* 0 until the head is complete */
    bool closes;    /* the server closes the connection after it */
    bool chunked;
    long content_length; /* -1: not given */
    long left;           /* bytes of the body, or of the current chunk, still to come */
    enum chunk chunk;
};

/* Called with each piece of the body. */
typedef void body_sink(void *owner, const char *data, size_t length);

/* Begin to read a new response. */
void begin_response(struct response *response);

/* Read what is at `data`; returns the bytes used up, the rest must be given again with more behind it. `data` is
 * changed. Stops at the end of the response, with `part` COMPLETE. */
size_t read_response(struct response *response, char *data, size_t length, body_sink *sink, void *owner);

/* Would the end of the connection be the regular end of this response? */
bool ends_with_connection(const struct response *response);

#endif
