// Reading and writing a map's elements, one by one and in batches.
#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>

#include "args.h"
#include "error.h"
#include "map.h"

namespace libbpf_napi {

// TypeScript has checked the sizes and worded the error; this stands between a mistake there and
// the kernel writing past a buffer.
bool Map::Fits(Napi::Env env, const char* operation, const Bytes& key, const Bytes* value) const {
  if (key.size == KeyBytes() && (value == nullptr || value->size == ValueBytes())) return true;
  ThrowBpf(env, operation, Subject(), EINVAL, "key or value has the wrong size");
  return false;
}

// lookup(key, into, flags): false when there is no such entry.
Napi::Value Map::Take(const Napi::CallbackInfo& info, bool remove) {
  Napi::Env env = info.Env();
  const char* operation = remove ? "lookup and delete in" : "lookup in";
  int fd = Fd(env, operation);
  if (fd < 0) return {};
  Bytes key = BytesOf(info[0]);
  Bytes value = BytesOf(info[1]);
  if (!Fits(env, operation, key, &value)) return {};
  uint64_t flags = U32(info[2]);
  void* key_data = key.size > 0 ? key.data : nullptr;  // queues and stacks have no key
  int error = remove ? bpf_map_lookup_and_delete_elem_flags(fd, key_data, value.data, flags)
                     : bpf_map_lookup_elem_flags(fd, key_data, value.data, flags);
  if (error == -ENOENT) return Napi::Boolean::New(env, false);
  if (error != 0) return ThrowBpf(env, operation, Subject(), error);
  return Napi::Boolean::New(env, true);
}

Napi::Value Map::Lookup(const Napi::CallbackInfo& info) { return Take(info, false); }
Napi::Value Map::LookupAndDelete(const Napi::CallbackInfo& info) { return Take(info, true); }

Napi::Value Map::Update(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = Fd(env, "update");
  if (fd < 0) return {};
  Bytes key = BytesOf(info[0]);
  Bytes value = BytesOf(info[1]);
  if (!Fits(env, "update", key, &value)) return {};
  int error = bpf_map_update_elem(fd, key.size > 0 ? key.data : nullptr, value.data, U32(info[2]));
  if (error != 0) return ThrowBpf(env, "update", Subject(), error);
  return env.Undefined();
}

Napi::Value Map::Delete(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = Fd(env, "delete from");
  if (fd < 0) return {};
  Bytes key = BytesOf(info[0]);
  if (!Fits(env, "delete from", key, nullptr)) return {};
  int error = bpf_map_delete_elem(fd, key.data);
  if (error == -ENOENT) return Napi::Boolean::New(env, false);
  if (error != 0) return ThrowBpf(env, "delete from", Subject(), error);
  return Napi::Boolean::New(env, true);
}

// nextKey(key | undefined, into): false past the last one.
Napi::Value Map::NextKey(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const char* operation = "iterate over";
  int fd = Fd(env, operation);
  if (fd < 0) return {};
  Bytes key = BytesOf(info[0]);
  Bytes next = BytesOf(info[1]);
  if (!Fits(env, operation, next, nullptr)) return {};
  if (!info[0].IsUndefined() && !Fits(env, operation, key, nullptr)) return {};
  int error = bpf_map_get_next_key(fd, info[0].IsUndefined() ? nullptr : key.data, next.data);
  if (error == -ENOENT) return Napi::Boolean::New(env, false);
  if (error != 0) return ThrowBpf(env, operation, Subject(), error);
  return Napi::Boolean::New(env, true);
}

namespace {
Napi::Value BatchResult(Napi::Env env, uint32_t count, int error) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("count", count);
  out.Set("errno", -error);
  return out;
}
}  // namespace

// lookupBatch(cursor | undefined, nextCursor, keys, values, count, remove): {count, errno}.
// TypeScript decides what an errno means: end, buffer too small, no batch operations here.
Napi::Value Map::LookupBatch(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const char* operation = "lookup batch in";
  int fd = Fd(env, operation);
  if (fd < 0) return {};
  Bytes cursor = BytesOf(info[0]);
  Bytes next = BytesOf(info[1]);
  Bytes keys = BytesOf(info[2]);
  Bytes values = BytesOf(info[3]);
  uint32_t count = U32(info[4]);
  size_t cursor_bytes = std::max<size_t>(8, KeyBytes());
  if (next.size < cursor_bytes || (!info[0].IsUndefined() && cursor.size < cursor_bytes) ||
      keys.size < uint64_t{count} * KeyBytes() || values.size < uint64_t{count} * ValueBytes()) {
    return ThrowBpf(env, operation, Subject(), EINVAL, "a buffer is too small");
  }
  void* from = info[0].IsUndefined() ? nullptr : cursor.data;
  int error = Flag(info[5]) ? bpf_map_lookup_and_delete_batch(fd, from, next.data, keys.data,
                                                              values.data, &count, nullptr)
                            : bpf_map_lookup_batch(fd, from, next.data, keys.data, values.data,
                                                   &count, nullptr);
  return BatchResult(env, count, error);
}

Napi::Value Map::UpdateBatch(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = Fd(env, "update batch in");
  if (fd < 0) return {};
  Bytes keys = BytesOf(info[0]);
  Bytes values = BytesOf(info[1]);
  uint32_t count = U32(info[2]);
  if (keys.size < uint64_t{count} * KeyBytes() || values.size < uint64_t{count} * ValueBytes()) {
    return ThrowBpf(env, "update batch in", Subject(), EINVAL, "a buffer is too small");
  }
  LIBBPF_OPTS(bpf_map_batch_opts, opts);
  opts.elem_flags = U32(info[3]);
  int error = bpf_map_update_batch(fd, keys.data, values.data, &count, &opts);
  return BatchResult(env, count, error);
}

Napi::Value Map::DeleteBatch(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = Fd(env, "delete batch from");
  if (fd < 0) return {};
  Bytes keys = BytesOf(info[0]);
  uint32_t count = U32(info[1]);
  if (keys.size < uint64_t{count} * KeyBytes()) {
    return ThrowBpf(env, "delete batch from", Subject(), EINVAL, "a buffer is too small");
  }
  int error = bpf_map_delete_batch(fd, keys.data, &count, nullptr);
  return BatchResult(env, count, error);
}

}  // namespace libbpf_napi
