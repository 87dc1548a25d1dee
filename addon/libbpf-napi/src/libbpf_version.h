#pragma once

#include <bpf/libbpf_version.h>

// Whether the libbpf that we are compiled against is this version or later.
#define LIBBPF_NAPI_HAS(major, minor) \
  (LIBBPF_MAJOR_VERSION > (major) ||  \
   (LIBBPF_MAJOR_VERSION == (major) && LIBBPF_MINOR_VERSION >= (minor)))
