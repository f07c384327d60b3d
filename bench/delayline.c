/* The benchmark's simulated wire: joins two network namespaces by a TUN device in each and hands every packet
 * on after a fixed one-way delay (0 takes the same path and waits for nothing).
 *
 *     delayline CLIENT_NETNS LAB_NETNS
 *
 * Standard input takes lines and each is answered by one line of JSON: "delay MICROSECONDS" (one way), "stats".
 * It ends when standard input does. The counters are what a healthy run is judged by: they are seen on the wire,
 * so neither program can be wrong about its own. A retransmitted SYN or ClientHello counts again.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum {
    FRAME_MAX_BYTES = sizeof(struct virtio_net_hdr) + 65535,
    BURST_PACKETS = 256,      /* read from one side before looking at the other */
    GRANULE_NS = 250 * 1000,  /* packets come and go together: a wake-up for each would double the cost */
    PORT_DNS = 53,
    PORT_HTTP = 80,
    PORT_HTTPS = 443
};

struct frame {
    struct frame *next;
    int64_t due_ns;
    size_t size_bytes;
    unsigned char bytes[];
};

/* The delay is one for all, so the order of arrival is the order of departure: a list, not a heap. */
struct direction {
    int from, to;
    struct frame *head, **tail;
    uint64_t packets, bytes, refused;
};

static struct counters {
    uint64_t dns_udp, dns_tcp, syn_http, syn_https, client_hellos;
} counted;

static int64_t one_way_ns;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* The vnet header passes through unread: checksums stay "partial" from end to end and nobody computes them. */
static int open_tun(const char *netns_path, const char *name) {
    int netns = open(netns_path, O_RDONLY | O_CLOEXEC);
    if (netns < 0 || setns(netns, CLONE_NEWNET) < 0) die(netns_path);
    close(netns);
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tun < 0) die("/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(tun, TUNSETIFF, &request) < 0) die("TUNSETIFF");
    if (ioctl(tun, TUNSETOFFLOAD, TUN_F_CSUM) < 0) die("TUNSETOFFLOAD");
    return tun;
}

static void count(const unsigned char *ip, size_t size) {
    if (size < 20 || ip[0] >> 4 != 4) return;
    size_t header = (ip[0] & 15) * 4u;
    if (size < header + 20) return;
    const unsigned char *l4 = ip + header;
    unsigned port = l4[2] << 8 | l4[3];
    if (ip[9] == 17) {
        counted.dns_udp += port == PORT_DNS;
        return;
    }
    if (ip[9] != 6) return;
    if ((l4[13] & 0x12) == 0x02) { /* SYN without ACK */
        counted.dns_tcp += port == PORT_DNS;
        counted.syn_http += port == PORT_HTTP;
        counted.syn_https += port == PORT_HTTPS;
        return;
    }
    const unsigned char *payload = l4 + (l4[12] >> 4) * 4u;
    if (port == PORT_HTTPS && payload + 6 <= ip + size) /* RFC 8446, 4 and 5.1: handshake record, ClientHello */
        counted.client_hellos += payload[0] == 22 && payload[1] == 3 && payload[5] == 1;
}

static void pass_on(struct direction *way, const unsigned char *bytes, size_t size) {
    if (write(way->to, bytes, size) < 0) way->refused++;
}

static void take_in(struct direction *way, int counting) {
    static unsigned char bytes[FRAME_MAX_BYTES];
    int64_t due_ns = now_ns() + one_way_ns - GRANULE_NS; /* half a granule is lost on either side, on average */
    for (int left = BURST_PACKETS; left > 0; left--) {
        ssize_t size = read(way->from, bytes, sizeof bytes);
        if (size <= (ssize_t)sizeof(struct virtio_net_hdr)) return;
        way->packets++;
        way->bytes += size - sizeof(struct virtio_net_hdr);
        if (counting) count(bytes + sizeof(struct virtio_net_hdr), size - sizeof(struct virtio_net_hdr));
        if (one_way_ns == 0 && way->head == NULL) {
            pass_on(way, bytes, size);
            continue;
        }
        struct frame *frame = malloc(sizeof *frame + size);
        if (frame == NULL) die("malloc");
        frame->next = NULL;
        frame->due_ns = due_ns;
        frame->size_bytes = size;
        memcpy(frame->bytes, bytes, size);
        *way->tail = frame;
        way->tail = &frame->next;
    }
}

static void let_out(struct direction *way) {
    if (way->head == NULL) return;
    int64_t now = now_ns();
    while (way->head != NULL && way->head->due_ns <= now) {
        struct frame *frame = way->head;
        way->head = frame->next;
        if (way->head == NULL) way->tail = &way->head;
        pass_on(way, frame->bytes, frame->size_bytes);
        free(frame);
    }
}

static int64_t wait_ns(const struct direction *ways) {
    int64_t due_ns = INT64_MAX;
    for (int i = 0; i < 2; i++)
        if (ways[i].head != NULL && ways[i].head->due_ns < due_ns) due_ns = ways[i].head->due_ns;
    if (due_ns == INT64_MAX) return -1;
    int64_t left_ns = due_ns - now_ns();
    return left_ns < 0 ? 0 : left_ns;
}

static void obey(const struct direction *ways) {
    char line[64];
    if (fgets(line, sizeof line, stdin) == NULL) exit(0);
    if (strncmp(line, "delay ", 6) == 0) one_way_ns = atoll(line + 6) * 1000;
    printf("{\"one_way_us\": %lld, \"dns_udp\": %llu, \"dns_tcp\": %llu, \"syn_http\": %llu, \"syn_https\": %llu, "
           "\"client_hellos\": %llu, \"packets\": %llu, \"bytes\": %llu, \"refused\": %llu}\n",
           (long long)one_way_ns / 1000, (unsigned long long)counted.dns_udp, (unsigned long long)counted.dns_tcp,
           (unsigned long long)counted.syn_http, (unsigned long long)counted.syn_https,
           (unsigned long long)counted.client_hellos, (unsigned long long)(ways[0].packets + ways[1].packets),
           (unsigned long long)(ways[0].bytes + ways[1].bytes),
           (unsigned long long)(ways[0].refused + ways[1].refused));
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: delayline CLIENT_NETNS LAB_NETNS\n");
        return 2;
    }
    setvbuf(stdin, NULL, _IONBF, 0);
    int client = open_tun(argv[1], "line0");
    int lab = open_tun(argv[2], "line0");
    struct direction ways[2] = {{.from = client, .to = lab}, {.from = lab, .to = client}};
    for (int i = 0; i < 2; i++) ways[i].tail = &ways[i].head;
    obey(ways); /* the first answer tells the caller that both devices are there */
    for (;;) {
        struct pollfd ready[3] = {{client, POLLIN, 0}, {lab, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
        if (one_way_ns > 0) nanosleep(&(struct timespec){.tv_nsec = GRANULE_NS}, NULL);
        int64_t left_ns = wait_ns(ways);
        struct timespec left = {left_ns / 1000000000, left_ns % 1000000000};
        if (ppoll(ready, 3, left_ns < 0 ? NULL : &left, NULL) < 0 && errno != EINTR) die("ppoll");
        for (int i = 0; i < 2; i++) let_out(&ways[i]);
        for (int i = 0; i < 2; i++)
            if (ready[i].revents) take_in(&ways[i], i == 0);
        if (ready[2].revents) obey(ways);
    }
}
