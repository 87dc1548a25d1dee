// One datagram to a unix socket: all that Node.js lacks to speak the protocol of sd_notify(3).
#include <errno.h>
#include <node_api.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MESSAGE_BYTES 4096

// Returns errno.  A path that begins with '@' is one of the abstract namespace.
static int Send(const char* path, size_t path_bytes, const char* message, size_t message_bytes) {
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  if (path_bytes == 0 || path_bytes >= sizeof(to.sun_path)) return ENAMETOOLONG;
  memcpy(to.sun_path, path, path_bytes);
  if (path[0] == '@') to.sun_path[0] = '\0';
  socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_bytes);
  // Never waits: who asks for signs of life must not be what keeps us from living.
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return errno;
  ssize_t sent = sendto(fd, message, message_bytes, MSG_NOSIGNAL, (struct sockaddr*)&to, length);
  int error = sent < 0 ? errno : 0;
  close(fd);
  return error;
}

// send(path, message): errno, 0 if it was sent.
static napi_value SendCall(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value args[2], result;
  char path[sizeof(((struct sockaddr_un*)0)->sun_path) + 1], message[MESSAGE_BYTES];
  size_t path_bytes = 0, message_bytes = 0;
  if (napi_get_cb_info(env, info, &count, args, NULL, NULL) != napi_ok || count != 2 ||
      napi_get_value_string_utf8(env, args[0], path, sizeof(path), &path_bytes) != napi_ok ||
      napi_get_value_string_utf8(env, args[1], message, sizeof(message), &message_bytes) != napi_ok) {
    napi_throw_type_error(env, NULL, "send needs a path and a message");
    return NULL;
  }
  napi_create_int32(env, Send(path, path_bytes, message, message_bytes), &result);
  return result;
}

NAPI_MODULE_INIT() {
  napi_value send;
  if (napi_create_function(env, "send", NAPI_AUTO_LENGTH, SendCall, NULL, &send) == napi_ok) {
    napi_set_named_property(env, exports, "send", send);
  }
  return exports;
}
