{
  "targets": [
    {
      "target_name": "huge_pages",
      "sources": ["src/huge_pages.c"],
      "defines": ["NAPI_VERSION=8"],
      "cflags_c": ["-std=gnu11", "-O2", "-Wall", "-Wextra"]
    }
  ]
}
