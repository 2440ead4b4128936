/* The floor of the bench: the smallest program that relays. One process, one loop: it reads and calls send.
 *
 * It is no server to use: it checks nothing, it waits for a client that does not read, it forgets errors.
 * Its CPU time is what the kernel takes for the same fan-out. The rule it keeps: what one read completed
 * goes to every client as one send, whole frames only (2 bytes of length, big-endian, then the payload).
 *
 * cc -O2 -o floor floor.c && ./floor PORT
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEADER = 2, FRAME = HEADER + 65535, READ = 65536, EVENTS = 256, MAX_FD = 1 << 20 };

static int clients[MAX_FD], count;       /* the descriptors of all clients, in no order */
static int place[MAX_FD];                /* where in `clients` a descriptor stands */
static unsigned char *partial[MAX_FD];   /* the first bytes of a frame that has begun, or NULL */
static size_t held[MAX_FD];              /* how many */
static unsigned char block[FRAME + READ];

static void send_all(int fd, const unsigned char *data, size_t size) {
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent <= 0)
            return; /* gone: the next read of it says so */
        data += sent;
        size -= (size_t)sent;
    }
}

static void join(int poll, int fd) {
    int one = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
    place[fd] = count;
    clients[count++] = fd;
}

static void leave(int fd) {
    int last = clients[--count];
    clients[place[fd]] = last;
    place[last] = place[fd];
    free(partial[fd]);
    partial[fd] = NULL;
    held[fd] = 0;
    close(fd);
}

/* How many of the `size` bytes in `block` are whole frames. */
static size_t whole(size_t size) {
    size_t end = 0;
    while (size - end >= HEADER) {
        size_t next = end + HEADER + ((size_t)block[end] << 8 | block[end + 1]);
        if (next > size)
            break;
        end = next;
    }
    return end;
}

static void relay(int fd) {
    if (held[fd])
        memcpy(block, partial[fd], held[fd]);
    ssize_t got = recv(fd, block + held[fd], READ, MSG_DONTWAIT);
    if (got <= 0) {
        leave(fd);
        return;
    }
    size_t size = held[fd] + (size_t)got, end = whole(size);
    if (size == HEADER && end == HEADER) { /* an empty frame is a question: "am I served?" */
        send_all(fd, block, HEADER);
        return;
    }
    for (int i = 0; end > 0 && i < count; i++)
        send_all(clients[i], block, end);
    held[fd] = size - end;
    if (held[fd] && !partial[fd])
        partial[fd] = malloc(FRAME);
    if (held[fd])
        memcpy(partial[fd], block + end, held[fd]);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    struct epoll_event events[EVENTS];
    struct rlimit files;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < MAX_FD ? files.rlim_max : MAX_FD;
    setrlimit(RLIMIT_NOFILE, &files);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("floor");
        return 1;
    }
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.fd = listener});
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listener)
                relay(fd);
            else if ((fd = accept(listener, NULL, NULL)) >= 0)
                join(poll, fd);
        }
    }
}
