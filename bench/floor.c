// The floor of the benchmark: an epoll relay that checks nothing and records nothing, with the system calls that any
// relay needs. What it reaches is what this kernel gives. Edge-triggered, each socket added once; bulk by splice.
//
// floor PORT TLS_PORT HTTP_PORT: a head that begins with C goes to TLS_PORT behind a 200, or is a 403 for a name that
// begins with "denied"; any other goes to HTTP_PORT as it is. Everything is on 127.0.0.1.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define ESTABLISHED "HTTP/1.1 200 Connection established\r\n\r\n"
#define DENIED "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"

enum { PIPE_BYTES = 1 << 20, POOL = 256 };

typedef struct side {
  int fd;
  struct side *peer, *next;
  char readable, writable, upstream, connecting, ended, fin_sent, ending, dead, bulk;
  int pending_length, pipe[2], in_pipe;
  char *pending;
} side;

static int epoll, pool[POOL][2], pooled;
static char buffer[65536];
static side *dead;

static side *add(int fd, int upstream) {
  side *new = calloc(1, sizeof *new);
  *new = (side){.fd = fd, .upstream = upstream, .writable = !upstream, .pipe = {-1, -1}};
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = new};
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  return new;
}

static void drop(side *one) {
  if (!one || one->dead) return;
  one->dead = 1;
  close(one->fd);
  if (one->pipe[0] >= 0) {
    if (!one->in_pipe && pooled < POOL) {
      memcpy(pool[pooled++], one->pipe, sizeof one->pipe);
    } else {
      close(one->pipe[0]);
      close(one->pipe[1]);
    }
  }
  one->next = dead;  // freed behind the events of this turn, which may still name it
  dead = one;
}

static void end(side *one) {
  drop(one->peer);
  drop(one);
}

// Sends, or keeps what the kernel does not take; -1 when the connection has failed.
static int put(side *to, const char *bytes, int length) {
  int sent = 0;
  if (!to->pending_length && to->writable) {
    sent = send(to->fd, bytes, length, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno != EAGAIN) return -1;
      sent = 0;
    }
    if (sent < length) to->writable = 0;
  }
  if (sent < length) {
    to->pending = realloc(to->pending, to->pending_length + length - sent);
    memcpy(to->pending + to->pending_length, bytes + sent, length - sent);
    to->pending_length += length - sent;
  }
  return 0;
}

// 1: all is sent; 0: some waits; -1: failed.
static int flush(side *to) {
  if (!to->pending_length) return 1;
  if (!to->writable) return 0;
  int sent = send(to->fd, to->pending, to->pending_length, MSG_NOSIGNAL);
  if (sent < 0 && errno != EAGAIN) return -1;
  if (sent < 0) sent = 0;
  memmove(to->pending, to->pending + sent, to->pending_length - sent);
  to->pending_length -= sent;
  if (to->pending_length) {
    to->writable = 0;
    return 0;
  }
  free(to->pending);
  to->pending = NULL;
  return 1;
}

static int open_pipe(side *from) {
  if (from->pipe[0] >= 0) return 0;
  if (pooled) {
    memcpy(from->pipe, pool[--pooled], sizeof from->pipe);
    return 0;
  }
  if (pipe2(from->pipe, O_NONBLOCK)) return -1;
  fcntl(from->pipe[1], F_SETPIPE_SZ, PIPE_BYTES);
  return 0;
}

// Moves what there is; -1 when either side has failed.
static int pump(side *from, side *to) {
  for (;;) {  // to EAGAIN: edge-triggered, nobody says again that there is more
    int flushed = flush(to);
    if (flushed < 1) return flushed;
    if (from->in_pipe) {
      if (!to->writable) return 0;
      int moved = splice(from->pipe[0], 0, to->fd, 0, from->in_pipe, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
      if (moved < 0) {
        if (errno != EAGAIN) return -1;
        to->writable = 0;
        return 0;
      }
      from->in_pipe -= moved;
      continue;
    }
    if (from->ended) {
      if (!to->fin_sent) shutdown(to->fd, SHUT_WR);
      to->fin_sent = 1;
      return 0;
    }
    if (!from->readable) return 0;
    if (from->bulk >= 2) {
      if (open_pipe(from)) return -1;
      int moved = splice(from->fd, 0, from->pipe[1], 0, PIPE_BYTES, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
      if (moved < 0) {
        if (errno != EAGAIN) return -1;
        from->readable = 0;
      } else if (!moved) {
        from->ended = 1;
      } else {
        from->in_pipe = moved;
        if (moved < 16384) from->bulk = 0;
      }
      continue;
    }
    int count = recv(from->fd, buffer, sizeof buffer, 0);
    if (count < 0) {
      if (errno != EAGAIN) return -1;
      from->readable = 0;
      return 0;
    }
    if (!count) {
      from->ended = 1;
      continue;
    }
    from->bulk = count == (int)sizeof buffer ? (from->bulk < 2 ? from->bulk + 1 : 2) : 0;
    if (count < (int)sizeof buffer && !from->ending) from->readable = 0;
    if (put(to, buffer, count)) return -1;
  }
}

static void first(side *client, struct sockaddr_in *to, int tls_port, int http_port) {
  static const int one = 1;
  if (!client->readable) return;
  int count = recv(client->fd, buffer, sizeof buffer, 0);
  if (count < 0 && errno == EAGAIN) {
    client->readable = 0;
    return;
  }
  if (count <= 0) {
    drop(client);
    return;
  }
  if (!client->ending) client->readable = 0;
  if (count > 14 && !memcmp(buffer, "CONNECT denied", 14)) {
    put(client, DENIED, sizeof DENIED - 1);
    drop(client);
    return;
  }
  int is_connect = buffer[0] == 'C';
  to->sin_port = htons(is_connect ? tls_port : http_port);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  connect(fd, (void *)to, sizeof *to);
  side *upstream = add(fd, 1);
  upstream->peer = client;
  client->peer = upstream;
  upstream->connecting = is_connect;
  if (!is_connect) put(upstream, buffer, count);
}

static void moved(side *one, unsigned events, struct sockaddr_in *to, int tls_port, int http_port) {
  if (one->dead) return;
  if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) one->ending = one->readable = 1;
  if (events & EPOLLIN) one->readable = 1;
  if (events & EPOLLOUT) one->writable = 1;
  if (!one->peer) {
    first(one, to, tls_port, http_port);
    return;
  }
  if (one->upstream && one->connecting && one->writable) {
    one->connecting = 0;
    if (put(one->peer, ESTABLISHED, sizeof ESTABLISHED - 1)) {
      end(one);
      return;
    }
  }
  side *peer = one->peer;
  if (one->connecting || peer->connecting) return;
  if (pump(one, peer) || pump(peer, one) || (one->fin_sent && peer->fin_sent)) end(one);
}

int main(int count, char **words) {
  int one = 1;
  if (count != 4) return 2;
  int tls_port = atoi(words[2]), http_port = atoi(words[3]);
  struct sockaddr_in place = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  place.sin_port = htons(atoi(words[1]));
  signal(SIGPIPE, SIG_IGN);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (bind(listener, (void *)&place, sizeof place) || listen(listener, 4096)) return 1;
  epoll = epoll_create1(0);
  struct epoll_event events[512], event = {.events = EPOLLIN};
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int found = epoll_wait(epoll, events, 512, -1);
    for (int at = 0; at < found; at++) {
      if (events[at].data.ptr) {
        moved(events[at].data.ptr, events[at].events, &place, tls_port, http_port);
        continue;
      }
      for (int fd, taken = 0; taken < 64 && (fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0; taken++) add(fd, 0);
    }
    while (dead) {
      side *gone = dead;
      dead = gone->next;
      free(gone->pending);
      free(gone);
    }
  }
}
