// A progress bar with the time left.
#pragma once

#include <chrono>
#include <string>

namespace squat_llama {

/// Draws on standard error if that is a terminal, otherwise nothing.
class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// `done` is a share of 1.
  void show(double done, const std::string& what);

 private:
  bool is_terminal_;
  double drawn_at_ = -1;  ///< seconds
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace squat_llama
