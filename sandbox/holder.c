/* The holder keeps one network namespace alive while tools come and go in it, and is nothing else a tool could use.
 *
 *   holder                    sleeps, reaps, ends on SIGTERM
 *   holder forward FROM TO [FROM TO]...
 *                             also forwards connections; says "ready" once it listens. FROM is PORT (on 127.0.0.1),
 *                             *:PORT (on every address) or the path of a unix socket, TO is PORT or such a path.
 *                             For Compose.
 *   holder hand PATH          also makes sockets in its namespace and hands them to whoever listens at PATH; says "ready".
 *                             For engines beside which the proxy may not enter the namespace itself.
 *   holder check TO           ends with 0 when somebody listens there: a health check
 *
 * Static, no library beyond libc, one thread, no heap: what is not here cannot go wrong here.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAIRS = 240, BUFFER = 16384, PORTS = 8, FIRST = 1 + PORTS, SOCKETS = 60 }; /* two descriptors a pair, below nofile 1024 */

struct half { /* one direction of one connection */
  char data[BUFFER];
  size_t start, end;
  int eof;
};

struct pair { /* fd[0] is the tool, fd[1] the proxy; way[i] carries bytes read from fd[i] */
  int fd[2];
  struct half way[2];
};

static struct pair pairs[PAIRS];
static struct pollfd polled[FIRST + 2 * PAIRS];

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static int signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGCHLD);
  if (sigprocmask(SIG_BLOCK, &set, NULL) != 0) fail("sigprocmask");
  int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) fail("signalfd");
  return fd;
}

static void handle_signal(int fd) {
  struct signalfd_siginfo info;
  while (read(fd, &info, sizeof info) == (ssize_t)sizeof info) {
    if (info.ssi_signo != SIGCHLD) exit(0);
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
  }
}

union address {
  struct sockaddr any;
  struct sockaddr_in tcp;
  struct sockaddr_un local;
};

/* What a word of the command line names: an address, and its length. */
static socklen_t address_of(const char *word, union address *found) {
  memset(found, 0, sizeof *found);
  if (word[0] == '/' && strlen(word) < sizeof found->local.sun_path) {
    found->local.sun_family = AF_UNIX;
    strcpy(found->local.sun_path, word);
    return sizeof found->local;
  }
  int open = strncmp(word, "*:", 2) == 0;
  const char *port = open ? word + 2 : word;
  char *end;
  long number = strtol(port, &end, 10);
  if (*end != '\0' || number < 1 || number > 65535) {
    fprintf(stderr, "holder: %s is neither a port nor a path\n", word);
    exit(2);
  }
  found->tcp.sin_family = AF_INET;
  found->tcp.sin_port = htons((unsigned short)number);
  found->tcp.sin_addr.s_addr = htonl(open ? INADDR_ANY : INADDR_LOOPBACK);
  return sizeof found->tcp;
}

static int new_socket(const union address *address) {
  return socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

static int listen_on(const char *word) {
  union address address;
  socklen_t length = address_of(word, &address);
  int one = 1, fd = new_socket(&address);
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0) fail("socket");
  if (address.any.sa_family == AF_UNIX) {
    unlink(word); /* of a holder that was killed */
    umask(0077);
  }
  if (bind(fd, &address.any, length) != 0) fail("bind");
  if (listen(fd, 128) != 0) fail("listen");
  return fd;
}

static int dial(const char *word) {
  union address address;
  socklen_t length = address_of(word, &address);
  int fd = new_socket(&address);
  if (fd >= 0 && connect(fd, &address.any, length) != 0 && errno != EINPROGRESS) {
    close(fd); /* nobody behind it: the caller sees its connection closed, never another way out */
    fd = -1;
  }
  return fd;
}

/* Forward `number` of `ports` has every `ports`-th pair to itself: one that is full takes nothing from the others. */
static void accept_one(int listener, int number, int ports, const char *target) {
  int tool = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (tool < 0) return;
  struct pair *free_pair = NULL;
  for (int i = number; i < PAIRS && !free_pair; i += ports)
    if (pairs[i].fd[0] < 0) free_pair = &pairs[i];
  int proxy = free_pair ? dial(target) : -1;
  if (proxy < 0) {
    close(tool);
    return;
  }
  memset(free_pair->way, 0, sizeof free_pair->way);
  free_pair->fd[0] = tool;
  free_pair->fd[1] = proxy;
}

static void drop(struct pair *pair) {
  close(pair->fd[0]);
  close(pair->fd[1]);
  pair->fd[0] = pair->fd[1] = -1;
}

/* Moves what it can in one direction. Returns 0 when the connection is broken. */
static int move(struct half *way, int from, int to, int readable) {
  if (readable && way->start == way->end && !way->eof) {
    ssize_t count = read(from, way->data, BUFFER);
    if (count == 0) {
      way->eof = 1;
      shutdown(to, SHUT_WR); /* the buffer is empty here, so nothing is cut off */
    } else if (count > 0) {
      way->start = 0;
      way->end = (size_t)count;
    } else if (errno != EAGAIN && errno != EINTR) {
      return 0;
    }
  }
  while (way->start < way->end) {
    ssize_t count = send(to, way->data + way->start, way->end - way->start, MSG_NOSIGNAL);
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    way->start += (size_t)count;
  }
  return 1;
}

static void serve_pair(struct pair *pair, short tool, short proxy) {
  int broken = ((tool | proxy) & (POLLERR | POLLNVAL)) != 0;
  int can_read[2] = {tool & (POLLIN | POLLHUP), proxy & (POLLIN | POLLHUP)};
  for (int i = 0; i < 2 && !broken; i++) broken = !move(&pair->way[i], pair->fd[i], pair->fd[1 - i], can_read[i]);
  if (broken || (pair->way[0].eof && pair->way[1].eof)) drop(pair);
}

/* What to wait for on side `i`: bytes when its own buffer is empty, room when the other side's bytes wait for it. */
static short wanted(const struct pair *pair, int i) {
  const struct half *in = &pair->way[i], *out = &pair->way[1 - i];
  return (short)((in->start == in->end && !in->eof ? POLLIN : 0) | (out->start < out->end ? POLLOUT : 0));
}

static void forward(int ports, char **words, int signal_fd) {
  int listeners[PORTS];
  union address target;
  for (int i = 0; i < ports; i++) address_of(words[2 * i + 1], &target); /* said now, not at the first connection */
  for (int i = 0; i < PORTS; i++) listeners[i] = i < ports ? listen_on(words[2 * i]) : -1;
  for (int i = 0; i < PAIRS; i++) pairs[i].fd[0] = pairs[i].fd[1] = -1;
  if (write(STDOUT_FILENO, "ready\n", 6) != 6) fail("write");
  for (;;) {
    polled[0] = (struct pollfd){.fd = signal_fd, .events = POLLIN};
    for (int i = 0; i < PORTS; i++) polled[1 + i] = (struct pollfd){.fd = listeners[i], .events = POLLIN};
    for (int i = 0; i < PAIRS; i++)
      for (int side = 0; side < 2; side++) {
        short events = pairs[i].fd[0] < 0 ? 0 : wanted(&pairs[i], side);
        /* A side with nothing to wait for is left out: its hang-up would wake us again and again. */
        polled[FIRST + 2 * i + side] = (struct pollfd){.fd = events ? pairs[i].fd[side] : -1, .events = events};
      }
    if (poll(polled, FIRST + 2 * PAIRS, -1) < 0) {
      if (errno == EINTR) continue;
      fail("poll");
    }
    if (polled[0].revents) handle_signal(signal_fd);
    for (int i = 0; i < PAIRS; i++) {
      short tool = polled[FIRST + 2 * i].revents, proxy = polled[FIRST + 2 * i + 1].revents;
      if (pairs[i].fd[0] >= 0 && (tool | proxy)) serve_pair(&pairs[i], tool, proxy);
    }
    for (int i = 0; i < ports; i++)
      if (polled[1 + i].revents) accept_one(listeners[i], i, ports, words[2 * i + 1]);
  }
}

struct order { /* for one socket, as it comes over the link */
  char kind;   /* L: listens on 127.0.0.1, W: listens on all addresses, U: UDP on 127.0.0.1, S: TCP that is not bound */
  char unused;
  unsigned short port; /* in network byte order */
};

static int make(const struct order *order) {
  int one = 1, kind = order->kind == 'U' ? SOCK_DGRAM : SOCK_STREAM;
  int fd = socket(AF_INET, kind | SOCK_CLOEXEC, 0);
  if (fd < 0 || order->kind == 'S') return fd;
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = order->port};
  at.sin_addr.s_addr = htonl(order->kind == 'W' ? INADDR_ANY : INADDR_LOOPBACK);
  /* Connections of the run before may still be in TIME_WAIT. */
  if ((kind == SOCK_STREAM && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0) ||
      bind(fd, (void *)&at, sizeof at) != 0 || (kind == SOCK_STREAM && listen(fd, 128) != 0)) {
    int problem = errno;
    close(fd);
    errno = problem;
    return -1;
  }
  return fd;
}

/* One message holds orders, the answer as many descriptors; or, without any, what went wrong. Returns 0 at the end. */
static int serve_orders(int link) {
  struct order orders[SOCKETS];
  ssize_t size = recv(link, orders, sizeof orders, 0);
  if (size <= 0) return size < 0 && (errno == EAGAIN || errno == EINTR);
  int count = (int)((size_t)size / sizeof *orders), made = 0, fds[SOCKETS];
  union {
    struct cmsghdr aligned;
    char bytes[CMSG_SPACE(sizeof fds)];
  } control;
  const char *said = "ok";
  while (made < count && (fds[made] = make(&orders[made])) >= 0) made++;
  if (made < count) said = strerror(errno);
  memset(&control, 0, sizeof control);
  struct iovec text = {(char *)said, strlen(said)};
  struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1};
  if (made == count && made > 0) {
    message.msg_control = &control;
    message.msg_controllen = CMSG_SPACE((size_t)made * sizeof *fds);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN((size_t)made * sizeof *fds);
    memcpy(CMSG_DATA(head), fds, (size_t)made * sizeof *fds);
  }
  ssize_t sent = sendmsg(link, &message, MSG_NOSIGNAL);
  /* Ours must be closed: with a copy here, a dead proxy would look like a slow one. */
  while (made > 0) close(fds[--made]);
  return sent >= 0;
}

static void hand(const char *path, int signal_fd) {
  union address target;
  socklen_t length = address_of(path, &target);
  int link = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (link < 0 || connect(link, &target.any, length) != 0) fail(path);
  if (write(STDOUT_FILENO, "ready\n", 6) != 6) fail("write");
  for (;;) {
    struct pollfd waiting[2] = {{.fd = signal_fd, .events = POLLIN}, {.fd = link, .events = POLLIN}};
    if (poll(waiting, 2, -1) < 0 && errno != EINTR) fail("poll");
    if (waiting[0].revents) handle_signal(signal_fd);
    if (waiting[1].revents && !serve_orders(link)) {
      close(link); /* nobody wants anything any more: a descriptor below 0 is not polled */
      link = -1;
    }
  }
}

static int check(const char *target) {
  struct pollfd link = {.fd = dial(target), .events = POLLOUT};
  return link.fd < 0 || poll(&link, 1, 1000) != 1 || (link.revents & (POLLERR | POLLHUP));
}

int main(int count, char **words) {
  if (count == 3 && strcmp(words[1], "check") == 0) return check(words[2]);
  int signal_fd = signals();
  if (count == 3 && strcmp(words[1], "hand") == 0) hand(words[2], signal_fd);
  int ports = (count - 2) / 2;
  if (count > 3 && count % 2 == 0 && ports <= PORTS && strcmp(words[1], "forward") == 0)
    forward(ports, words + 2, signal_fd);
  if (count != 1) {
    fputs("usage: holder [forward FROM TO [FROM TO]... | hand PATH | check TO]\n", stderr);
    return 2;
  }
  for (;;) {
    struct pollfd waiting = {.fd = signal_fd, .events = POLLIN};
    if (poll(&waiting, 1, -1) > 0) handle_signal(signal_fd);
  }
}
