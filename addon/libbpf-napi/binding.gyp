{
  "targets": [
    {
      "target_name": "bpf_napi",
      "sources": [
        "src/addon.cc",
        "src/attach.cc",
        "src/btf.cc",
        "src/error.cc",
        "src/fd_watch.cc",
        "src/link.cc",
        "src/log_capture.cc",
        "src/map.cc",
        "src/map_elements.cc",
        "src/object.cc",
        "src/probe.cc",
        "src/program.cc",
        "src/ring_buffer.cc",
        "src/tcx.cc",
        "src/user_ring_buffer.cc"
      ],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": [
        "NAPI_VERSION=8",
        "NAPI_DISABLE_CPP_EXCEPTIONS",
        # A worker may be terminated while a load is under way on another thread: its outcome has
        # nowhere to go, which must not end the process.
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
        "NODE_ADDON_API_DISABLE_DEPRECATED"
      ],
      "cflags": ["-Wall", "-Wextra", "-Wno-unused-parameter", "<!@(pkg-config --cflags 'libbpf >= 1.3')"],
      "cflags_cc": ["-std=c++17", "-fno-exceptions", "-fvisibility=hidden"],
      "libraries": ["<!@(pkg-config --libs 'libbpf >= 1.3')"]
    }
  ]
}
