/*!
 * \file settings.h
 * \brief What the environment and the Python side say about where things are.
 */
#ifndef HETERO_TVM_RUNTIME_SETTINGS_H_
#define HETERO_TVM_RUNTIME_SETTINGS_H_

#include <map>
#include <mutex>
#include <string>

namespace hetero_tvm::runtime {

/*! \brief Named strings. An explicit setting wins over the environment variable of the same
 * meaning. */
class Settings {
 public:
  /*! \brief Set `key`; throws ValueError, listing the keys, when there is no such setting. */
  void Set(const std::string& key, const std::string& value);

  /*! \brief The setting, else its environment variable, else an empty string. */
  std::string Get(const std::string& key) const;

  /*! \brief Where files are kept between runs; empty when there is no place. */
  std::string CacheDirectory() const;

 private:
  mutable std::mutex mutex_;  // guards values_; taken for the length of one look-up
  std::map<std::string, std::string> values_;
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_SETTINGS_H_
