// What Node.js lacks to hand a connected socket to another process and to keep an eye on it:
// a second descriptor of it, SCM_RIGHTS, shutdown(2) and TCP_INFO.
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <node_api.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

static bool Arguments(napi_env env, napi_callback_info info, size_t wanted, napi_value* args) {
  size_t count = wanted;
  if (napi_get_cb_info(env, info, &count, args, NULL, NULL) == napi_ok && count == wanted) return true;
  napi_throw_type_error(env, NULL, "wrong number of arguments");
  return false;
}

static bool Int(napi_env env, napi_value value, int32_t* out) {
  if (napi_get_value_int32(env, value, out) == napi_ok) return true;
  napi_throw_type_error(env, NULL, "not a whole number");
  return false;
}

static napi_value Number(napi_env env, int32_t number) {
  napi_value value;
  napi_create_int32(env, number, &value);
  return value;
}

// duplicate(fd): another descriptor of the same socket, or -errno.
static napi_value Duplicate(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int32_t fd;
  if (!Arguments(env, info, 1, args) || !Int(env, args[0], &fd)) return NULL;
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return Number(env, copy < 0 ? -errno : copy);
}

// send(over, text, fd): the text with the descriptor attached; how many bytes of it were taken, or -errno.
static napi_value Send(napi_env env, napi_callback_info info) {
  napi_value args[3];
  int32_t over, fd;
  char text[1024];
  size_t text_bytes;
  if (!Arguments(env, info, 3, args) || !Int(env, args[0], &over) || !Int(env, args[2], &fd)) return NULL;
  if (napi_get_value_string_utf8(env, args[1], text, sizeof(text), &text_bytes) != napi_ok) {
    napi_throw_type_error(env, NULL, "not a string");
    return NULL;
  }
  if (text_bytes == sizeof(text) - 1) return Number(env, -EMSGSIZE);
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(fd))];
  } control = {0};
  struct iovec part = {.iov_base = text, .iov_len = text_bytes};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
  struct cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(fd));
  memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
  ssize_t sent = sendmsg(over, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  return Number(env, sent < 0 ? -errno : (int32_t)sent);
}

// shutdown(fd): ends the connection both ways, whoever else has it; errno, 0 if it was connected.
static napi_value Shutdown(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int32_t fd;
  if (!Arguments(env, info, 1, args) || !Int(env, args[0], &fd)) return NULL;
  return Number(env, shutdown(fd, SHUT_RDWR) < 0 ? errno : 0);
}

// tcpBytes(fd, counts): fills [acknowledged by the other end, received from it]; errno, 0 if they were filled.
static napi_value TcpBytes(napi_env env, napi_callback_info info) {
  napi_value args[2];
  int32_t fd;
  napi_typedarray_type type;
  size_t length;
  void* data;
  if (!Arguments(env, info, 2, args) || !Int(env, args[0], &fd)) return NULL;
  if (napi_get_typedarray_info(env, args[1], &type, &length, &data, NULL, NULL) != napi_ok ||
      type != napi_float64_array || length != 2) {
    napi_throw_type_error(env, NULL, "not an array for two counts");
    return NULL;
  }
  struct tcp_info tcp = {0};
  socklen_t size = sizeof(tcp);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &tcp, &size) < 0) return Number(env, errno);
  double* counts = data;
  counts[0] = (double)tcp.tcpi_bytes_acked;
  counts[1] = (double)tcp.tcpi_bytes_received;
  return Number(env, 0);
}

NAPI_MODULE_INIT() {
  const struct {
    const char* name;
    napi_callback call;
  } calls[] = {{"duplicate", Duplicate}, {"send", Send}, {"shutdown", Shutdown}, {"tcpBytes", TcpBytes}};
  for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
    napi_value function;
    if (napi_create_function(env, calls[i].name, NAPI_AUTO_LENGTH, calls[i].call, NULL, &function) != napi_ok) return NULL;
    napi_set_named_property(env, exports, calls[i].name, function);
  }
  return exports;
}
