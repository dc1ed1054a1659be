/* Name servers that do not answer: preload this library, and lookups of names that end in
 * ".unanswered.test" hang for ten minutes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **result) {
    static const char suffix[] = ".unanswered.test";
    size_t length = node ? strlen(node) : 0, end = sizeof suffix - 1;
    if (length > end && !strcmp(node + length - end, suffix)) {
        for (int seconds = 0; seconds < 600; seconds++) sleep(1);
        return EAI_AGAIN;
    }
    return ((lookup *)dlsym(RTLD_NEXT, "getaddrinfo"))(node, service, hints, result);
}
