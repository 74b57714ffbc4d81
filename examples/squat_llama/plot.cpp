#include <cstdio>
#include <map>
#include <memory>
#include <squat/error.hpp>
#include <sstream>

#include "report.hpp"

namespace squat_llama {
namespace {

using squat::require;

std::string terminal_of(const std::string& path) {
  const std::map<std::string, std::string> terminals = {
      {".png", "pngcairo size 1500,650 font 'sans,12'"},
      {".svg", "svg size 1500,650 font 'sans,14' background 'white'"},
      {".pdf", "pdfcairo size 15,6.5 font 'sans,12'"}};
  const std::size_t dot = path.rfind('.');
  const auto found = terminals.find(dot == std::string::npos ? "" : path.substr(dot));
  require(found != terminals.end(), "the picture's name is ", path,
          "; it must end in .pdf, .png or .svg");
  return found->second;
}

constexpr const char* by_layer = "squat+, bits by layer";

/// Caches of a kind share a colour.
std::string family_of(const std::string& cache) {
  if (cache.find(",layer_costs=") != std::string::npos) return by_layer;
  for (const char* family : {"squat+", "squat", "kivi", "turbo", "oscar"}) {
    if (cache.rfind(family, 0) == 0) return family;
  }
  return "llama.cpp";
}

/// gnuplot's quoting: the text goes inside double quotes, without its markup.
std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

/// One panel: all families, by the column of the data that is the abscissa.
std::string panel(const std::vector<std::string>& families, int column, const std::string& label) {
  std::string plots;
  for (std::size_t i = 0; i < families.size(); ++i) {
    const std::string data = "$family" + std::to_string(i + 1);
    const std::string colour = " lt " + std::to_string(i + 1);
    const std::string place = " using " + std::to_string(column) + ":3";
    const std::string height = families[i] == "kivi" ? "-0.6" : "0.4";  // often where squat is
    const bool is_line = families[i].rfind("squat+", 0) == 0;
    plots += (i == 0 ? "plot " : ", ") + data + place +
             (is_line ? " with linespoints" : " with points") + colour + " pt 7 ps 1.4 title '" +
             families[i] + "', " + data + place + ":4 with labels left offset 1," + height + " tc" +
             colour + " notitle";
  }
  return "set xlabel '" + label + "'\n" + plots + "\n";
}

std::string script(const std::string& path, const std::vector<CacheResult>& results) {
  constexpr double mebi = 1024.0 * 1024.0;
  std::map<std::string, std::ostringstream> rows;  // bits, MiB, divergence, name
  for (const CacheResult& result : results) {
    const double divergence = result.quality.mean_divergence();
    if (divergence <= 0) continue;  // has no place on a logarithmic axis
    const std::string family = family_of(result.cache);
    // Its points lie below those of squat+ at the same bits, whose labels serve both.
    rows[family] << result.bytes.bits_per_element() << " " << result.bytes.total / mebi << " "
                 << divergence << " " << quoted(family == by_layer ? "" : result.cache) << "\n";
  }
  require(!rows.empty(), "no cache differs from full precision; nothing to draw");
  std::ostringstream out;
  out << "set terminal " << terminal_of(path) << " noenhanced\nset output " << quoted(path)
      << "\nset linetype 5 lc rgb '#c02020'"  // in place of yellow on white
         "\nset logscale y\nset format y '%g'\nset grid lc rgb '#dddddd'"
         "\nset offsets graph 0.02, graph 0.14, 0, 0"
         "\nset ylabel 'mean KL divergence of the next token (nats)'"
         "\nset key top right\nset multiplot layout 1,2\n";
  std::vector<std::string> families;
  for (const auto& [family, data] : rows) {
    families.push_back(family);
    out << "$family" << families.size() << " << END\n" << data.str() << "END\n";
  }
  out << panel(families, 1, "bits per element of what is quantized")
      << panel(families, 2, "MiB of the whole cache, a window of text") << "unset multiplot\n";
  return out.str();
}

}  // namespace

void write_plot(const std::string& path, const std::vector<CacheResult>& results) {
  const std::string commands = script(path, results);
  FILE* gnuplot = popen("gnuplot", "w");
  require(gnuplot != nullptr, "cannot start gnuplot");
  std::fputs(commands.c_str(), gnuplot);
  require(pclose(gnuplot) == 0, "gnuplot could not draw ", path,
          " (is it installed? Debian's package is gnuplot-nox)");
}

}  // namespace squat_llama
