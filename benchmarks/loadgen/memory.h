/* Growing rows of bytes and of measured times. Out of memory ends the program. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void *grow(void *memory, size_t bytes)
{
    memory = realloc(memory, bytes);
    if (memory == NULL) {
        fprintf(stderr, "llmload: out of memory\n");
        exit(2);
    }
    return memory;
}

/* Bytes, always followed by a zero once there are any. */
struct buffer {
    char *data;
    size_t length, capacity;
};

static inline void append(struct buffer *buffer, const char *data, size_t length)
{
    if (buffer->length + length + 1 > buffer->capacity) {
        buffer->capacity = (buffer->length + length + 1) * 2;
        buffer->data = grow(buffer->data, buffer->capacity);
    }
    memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
    buffer->data[buffer->length] = 0;
}

static inline void append_text(struct buffer *buffer, const char *text) { append(buffer, text, strlen(text)); }

static inline const char *text_of(const struct buffer *buffer) { return buffer->length ? buffer->data : ""; }

/* Forget the first bytes. */
static inline void drop_front(struct buffer *buffer, size_t length)
{
    memmove(buffer->data, buffer->data + length, buffer->length - length);
    buffer->length -= length;
}

/* Measured times. */
struct samples {
    double *values;
    size_t count, capacity;
};

static inline void add_sample(struct samples *samples, double value)
{
    if (samples->count == samples->capacity) {
        samples->capacity = samples->capacity ? samples->capacity * 2 : 4096;
        samples->values = grow(samples->values, samples->capacity * sizeof(double));
    }
    samples->values[samples->count++] = value;
}

static inline int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static inline void sort_samples(struct samples *samples)
{
    if (samples->count)
        qsort(samples->values, samples->count, sizeof(double), compare_doubles);
}

/* Nearest rank of sorted samples, 0 where there are none. */
static inline double percentile(const struct samples *samples, double share)
{
    return samples->count ? samples->values[(size_t)(share * (samples->count - 1) + 0.5)] : 0;
}

#endif
