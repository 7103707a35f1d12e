/*!
 * \file shared_module.cc
 * \brief A table of what is loaded, which keeps nothing alive.
 */
#include "shared_module.h"

#include <sys/stat.h>
#include <tvm/ffi/cast.h>

#include <filesystem>
#include <map>
#include <mutex>
#include <tuple>

#include "code_path.h"
#include "imported.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;

using FileKey = std::tuple<dev_t, ino_t, int64_t, int64_t>;

/*! \brief The dynamic loader too takes a file for the same by its device and number. */
FileKey KeyOf(const std::string& path) {
  struct stat found = {};
  if (stat(path.c_str(), &found) != 0) return {};  // loading it says what is wrong
  return {found.st_dev, found.st_ino, found.st_mtim.tv_sec, found.st_mtim.tv_nsec};
}

}  // namespace

ffi::Module LoadModule(const std::string& path) {
  static auto* mutex = new std::mutex;  // threads may load while the process ends
  static auto* loaded = new std::map<FileKey, ffi::WeakObjectPtr<ffi::ModuleObj>>;
  const std::string absolute = std::filesystem::absolute(path).string();
  const FileKey key = KeyOf(absolute);
  const std::scoped_lock lock(*mutex);
  const auto known = loaded->find(key);
  if (known != loaded->end()) {
    if (ffi::ObjectPtr<ffi::ModuleObj> alive = known->second.lock()) return ffi::Module(alive);
    loaded->erase(known);
  }
  const auto module =
      Imported("ffi.ModuleLoadFromFile")(ffi::String(CodePath(absolute))).cast<ffi::Module>();
  if (key != FileKey{}) {
    loaded->emplace(key, ffi::WeakObjectPtr<ffi::ModuleObj>(ffi::GetObjectPtr<ffi::ModuleObj>(
                             const_cast<ffi::ModuleObj*>(module.operator->()))));
  }
  return module;
}

}  // namespace hetero_tvm::runtime
