// The scheduler's system calls for one thread, which Node.js lacks: policy and CPUs.
#include <errno.h>
#include <node_api.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

// Room for 8192 CPUs, the most that Linux can be built for.
#define MASK_BYTES 1024

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

// getPolicy(tid): the policy, or -errno.
static napi_value GetPolicy(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int32_t tid;
  if (!Arguments(env, info, 1, args) || !Int(env, args[0], &tid)) return NULL;
  int policy = sched_getscheduler(tid);
  return Number(env, policy < 0 ? -errno : policy);
}

// getPriority(tid): the real-time priority, or -errno.
static napi_value GetPriority(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int32_t tid;
  struct sched_param param;
  if (!Arguments(env, info, 1, args) || !Int(env, args[0], &tid)) return NULL;
  return Number(env, sched_getparam(tid, &param) < 0 ? -errno : param.sched_priority);
}

// setPolicy(tid, policy, priority): errno, 0 if it was set.
static napi_value SetPolicy(napi_env env, napi_callback_info info) {
  napi_value args[3];
  int32_t tid, policy, priority;
  if (!Arguments(env, info, 3, args) || !Int(env, args[0], &tid) || !Int(env, args[1], &policy) ||
      !Int(env, args[2], &priority)) {
    return NULL;
  }
  struct sched_param param = {.sched_priority = priority};
  return Number(env, sched_setscheduler(tid, policy, &param) < 0 ? errno : 0);
}

// The bytes of a Uint8Array of MASK_BYTES: one bit for each CPU.
static uint8_t* Mask(napi_env env, napi_value value) {
  napi_typedarray_type type;
  size_t length;
  void* data;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, NULL, NULL) == napi_ok &&
      type == napi_uint8_array && length == MASK_BYTES) {
    return data;
  }
  napi_throw_type_error(env, NULL, "not a mask of CPUs");
  return NULL;
}

// getAffinity(tid, mask): fills the mask; errno, 0 if it was filled.
static napi_value GetAffinity(napi_env env, napi_callback_info info) {
  napi_value args[2];
  int32_t tid;
  if (!Arguments(env, info, 2, args) || !Int(env, args[0], &tid)) return NULL;
  uint8_t* mask = Mask(env, args[1]);
  if (!mask) return NULL;
  return Number(env, syscall(SYS_sched_getaffinity, tid, (size_t)MASK_BYTES, mask) < 0 ? errno : 0);
}

// setAffinity(tid, mask): errno, 0 if it was set.
static napi_value SetAffinity(napi_env env, napi_callback_info info) {
  napi_value args[2];
  int32_t tid;
  if (!Arguments(env, info, 2, args) || !Int(env, args[0], &tid)) return NULL;
  uint8_t* mask = Mask(env, args[1]);
  if (!mask) return NULL;
  return Number(env, syscall(SYS_sched_setaffinity, tid, (size_t)MASK_BYTES, mask) < 0 ? errno : 0);
}

NAPI_MODULE_INIT() {
  const struct {
    const char* name;
    napi_callback call;
  } calls[] = {{"getPolicy", GetPolicy},
               {"getPriority", GetPriority},
               {"setPolicy", SetPolicy},
               {"getAffinity", GetAffinity},
               {"setAffinity", SetAffinity}};
  for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
    napi_value function;
    if (napi_create_function(env, calls[i].name, NAPI_AUTO_LENGTH, calls[i].call, NULL, &function) != napi_ok) return NULL;
    napi_set_named_property(env, exports, calls[i].name, function);
  }
  return exports;
}
