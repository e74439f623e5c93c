/* What an answer of the OpenAI API says, without parsing it as JSON. */
#ifndef ANSWER_H
#define ANSWER_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Has this JSON a non-empty text, in chat's `content` or completions' `text`? */
static inline bool has_text(const char *json)
{
    const char *value = strstr(json, "\"content\":");
    if (value == NULL)
        value = strstr(json, "\"text\":");
    if (value == NULL)
        return false;
    value = strchr(value, ':') + 1;
    value += strspn(value, " ");
    return value[0] == '"' && value[1] != '"';
}

static inline long completion_tokens(const char *json)
{
    static const char name[] = "\"completion_tokens\":";
    const char *value = strstr(json, name);
    return value ? atol(value + sizeof name - 1) : 0;
}

#endif
