{
  "targets": [
    {
      "target_name": "tap_hold",
      "sources": ["src/binding.cc", "src/packet.cc", "src/queue.cc", "src/tap.cc", "src/worker.cc"],
      "include_dirs": ["<!@(node -p \"require('node-addon-api').include\")", "../../bpf"],
      "defines": ["NAPI_VERSION=8", "NAPI_DISABLE_CPP_EXCEPTIONS"],
      "cflags_cc": ["-std=c++17", "-O2", "-Wall", "-Wextra", "-fno-exceptions"]
    }
  ]
}
