/*!
 * \file code_path.cc
 * \brief Spellings of paths, one for each file that was found there.
 */
#include "code_path.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace hetero_tvm::runtime {

std::string CodePath(const std::string& path) {
  namespace fs = std::filesystem;
  using Identity = std::pair<dev_t, ino_t>;
  static std::mutex mutex;  // guards seen
  static std::map<std::string, std::vector<Identity>> seen;
  const fs::path absolute = fs::absolute(path).lexically_normal();
  struct stat about = {};
  if (stat(absolute.c_str(), &about) != 0) return absolute.string();  // who opens it says so
  const Identity identity{about.st_dev, about.st_ino};
  const std::scoped_lock lock(mutex);
  std::vector<Identity>& files = seen[absolute.string()];
  const auto found = std::find(files.begin(), files.end(), identity);
  const auto index = found - files.begin();
  if (found == files.end()) files.push_back(identity);
  fs::path spelled = absolute.parent_path();
  for (auto i = index; i > 0; --i) spelled /= ".";
  return (spelled / absolute.filename()).string();
}

}  // namespace hetero_tvm::runtime
