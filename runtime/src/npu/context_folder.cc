/*!
 * \file npu/context_folder.cc
 * \brief Writing of a module's binaries to the cache.
 */
#include "context_folder.h"

#include <tvm/ffi/error.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <system_error>
#include <utility>

#include "../c_api/sha256.h"
#include "../check.h"

namespace hetero_tvm::runtime::npu {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBlock = size_t{1} << 16;

/*! \brief Throw unless `name` stays in the folder that it is put in. */
void CheckName(const std::string& name) {
  const bool is_plain = !name.empty() && name != "." && name != ".." &&
                        name.find_first_of(std::string("/\\:\0", 4)) == std::string::npos;
  HETERO_CHECK(is_plain, ValueError) << "NPU module: '" << name << "' is not the name of a file";
}

bool Holds(const fs::path& path, std::string_view content) {
  std::error_code error;
  if (fs::file_size(path, error) != content.size() || error) return false;
  std::ifstream file(path, std::ios::binary);
  std::string block(kBlock, '\0');
  while (!content.empty()) {
    const size_t size = std::min(kBlock, content.size());
    if (!file.read(block.data(), static_cast<std::streamsize>(size)) ||
        content.compare(0, size, block.data(), size) != 0) {
      return false;
    }
    content.remove_prefix(size);
  }
  return true;
}

/*! \brief Write beside, then rename: what others find under `path` is whole. */
void Write(const fs::path& path, std::string_view content) {
  if (Holds(path, content)) return;
  static std::atomic<uint64_t> serial{0};
  fs::path beside = path;
  beside += "." + std::to_string(getpid()) + "." + std::to_string(serial.fetch_add(1));
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  std::ofstream file(beside, std::ios::binary);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  if (file) {
    fs::rename(beside, path, error);
  } else {
    error = std::make_error_code(std::errc::io_error);
  }
  if (!error) return;
  const std::string why = error.message();
  fs::remove(beside, error);
  TVM_FFI_THROW(EnvironmentProblem)
      << path.parent_path().string() << ": the NPU's binary of " << content.size()
      << " bytes cannot be written there (" << why
      << "); free some space, or set HETERO_CACHE_DIR to a folder that has it";
}

std::string Key(const std::vector<SharedFile>& files) {
  Sha256 digest;
  for (const SharedFile& file : files) digest.Add(file.content.data(), file.content.size());
  return digest.Finish();
}

}  // namespace

ContextFolder::ContextFolder(std::vector<SharedFile> files)
    : files_(std::move(files)), key_(Key(files_)) {
  for (const SharedFile& file : files_) CheckName(file.name);
}

fs::path ContextFolder::Place(const std::string& cache, const std::string& name,
                              std::string_view model) {
  CheckName(name);
  HETERO_CHECK(!cache.empty(), EnvironmentProblem)
      << "no place for the NPU's binary: set HETERO_CACHE_DIR to a folder of yours";
  const std::scoped_lock lock(mutex_);
  if (written_.empty()) {
    const fs::path folder = fs::path(cache) / "npu_contexts" / key_;
    for (const SharedFile& file : files_) Write(folder / file.name, file.content);
    written_ = folder;
  }
  const fs::path path = written_ / name;
  Write(path, model);
  return path;
}

}  // namespace hetero_tvm::runtime::npu
